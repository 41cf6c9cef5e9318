"""`umem bench --tune`: the sizes from which teams go another way, measured on this machine and kept.

At each size one way runs in turns with the other, all_reduce of touched buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from umem.collectives import thresholds
from umem.collectives.thresholds import Thresholds
from umem.errors import ConfigError
from umem.kernels.collective import layout
from umem.units import KIB, MIB, format_size
from umem.world.spec import MAPPED

from .harness.driver import Bench
from .harness.side import Measured, Options, Point, SlowestRankSide
from .harness.timing import close_sides, open_sides, run_rounds, warm_up
from .harness.wire import Part

NEVER_BYTES, ALWAYS_BYTES = 1 << 40, 0
NUM_PAIRS, SAMPLES = 9, 20
HALF_SIZES = (32 * KIB, 64 * KIB, 128 * KIB)
STAGED_BYTES = 4 * MIB  # of an operation that goes through every half many times
EAGER_SIZES = tuple(KIB << shift for shift in range(1, 8))
TWO_SHOT_SIZES = tuple(KIB << shift for shift in range(1, 8))
STREAM_SIZES = tuple(MIB << shift for shift in range(6))


@dataclass(frozen=True)
class Way:
    """A word of the team's, and its value while an operation goes this way."""

    word: int
    value: int


def run(console: Console, options: Options) -> int:
    """Measure, print, and keep what was found for every team of this machine."""
    if options.world != MAPPED or options.ranks < 2:
        raise ConfigError("thresholds are of two and more ranks that map each other's memory: --world mapped")
    thresholds.forget()
    before = thresholds.defaults()
    with Bench(options) as bench:
        found = measure(
            bench, before, lambda line: console.print(f"# {line}", highlight=False, soft_wrap=True)
        )
    for name in ("half", "eager", "two_shot", "stream"):
        old, new = getattr(before, name), getattr(found, name)
        is_measured = name != "two_shot" or options.ranks > 2
        remark = "" if is_measured else "  (only teams of more than two have it: -n 4)"
        line = f"{name:<10} {size_text(new):>8}  default {size_text(old)}{remark}"
        console.print(line, highlight=False, markup=False)
    path = thresholds.keep(found)
    where = f"kept in {path}" if path else "kept nowhere: no cache folder can be written"
    console.print(f"# {where}", highlight=False, markup=False, soft_wrap=True)
    return 0


def measure(bench: Bench, before: Thresholds, say: Callable[[str], None]) -> Thresholds:
    """The thresholds of teams of the ranks of `bench`; `say` is told what they are from."""
    halves = times_of(
        bench, "TunedPrivate", STAGED_BYTES, [Way(layout.TEAM_HALF_BYTES, half) for half in HALF_SIZES]
    )
    half = HALF_SIZES[int(np.argmin([np.median(times) for times in halves]))]

    def first_size(kind: str, what: str, word: int, most: int, sizes: Sequence[int]) -> int:
        """Index of the size from which on it is better to have 0 in the word than `most`."""
        ways = [Way(word, most), Way(word, ALWAYS_BYTES)]
        ratios = [ratio_of(times_of(bench, kind, size, ways)) for size in sizes]
        say(f"{what}: " + ", ".join(f"{size_text(s)} {r:.2f}" for s, r in zip(sizes, ratios, strict=True)))
        return first_from(ratios)

    sizes = [size for size in EAGER_SIZES if size <= half]
    direct = first_size("Tuned", "direct / staged", layout.TEAM_EAGER_BYTES, half, sizes)
    found = replace(before, half=half, eager=[0, *sizes][direct])
    if bench.options.ranks > 2:
        what, word = "two shots / one", layout.TEAM_TWO_SHOT_BYTES
        begin = first_size("TunedPrivate", what, word, NEVER_BYTES, TWO_SHOT_SIZES)
        found = replace(found, two_shot=[*TWO_SHOT_SIZES, NEVER_BYTES][begin])
    what, word = "around the caches / through them", layout.TEAM_STREAM_BYTES
    begin = first_size("Tuned", what, word, NEVER_BYTES, STREAM_SIZES)
    return replace(found, stream=[*STREAM_SIZES, NEVER_BYTES][begin])


def times_of(bench: Bench, kind: str, num_bytes: int, ways: Sequence[Way]) -> list[np.ndarray]:
    """Seconds of every block of each of `ways`, which ran in turns."""
    part = Part(
        bench.ranks(),
        f"umem.bench.parts.tuning:{kind}",
        operation="all_reduce",
        num_bytes=num_bytes,
        dtype=bench.options.dtype,
        op=bench.options.op,
        in_place=False,
    )
    sides = [
        SlowestRankSide(str(way.value), "load_store", part, "with_word", arguments=(way.word, way.value))
        for way in ways
    ]
    opened, missing = open_sides(sides)
    try:
        if missing:
            raise missing[0].error
        measured = Measured(Point(num_bytes))
        warm_up(opened, SAMPLES)
        run_rounds(opened, measured, NUM_PAIRS, SAMPLES if num_bytes < MIB else SAMPLES // 5)
        return [np.array([np.median(block) for block in measured.blocks[side.name]]) for side in sides]
    finally:
        close_sides(opened)


def ratio_of(times: Sequence[np.ndarray]) -> float:
    """The median of the second's blocks over the first's, pair by pair."""
    first, second = times
    return float(np.median(second / first))


def first_from(ratios: Sequence[float]) -> int:
    """The index from which on the second way is taken: where that costs least in all; their number for never.

    The measurements are noisy, and one size's outlier must not decide.
    """
    gains = [*np.cumsum(-np.log(ratios[::-1]))[::-1], 0.0]
    return int(np.argmax(gains))


def size_text(num_bytes: int) -> str:
    """A threshold in words."""
    return "never" if num_bytes >= NEVER_BYTES else format_size(num_bytes)
