"""`umem verify litmus [FILE...]`: the shipped tests or the given ones, in a world or under the model checker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ... import limits
from ...errors import ConfigError, UnknownName
from ...space.space import Space
from ...world import launch
from ...world.spec import HOSTS, MAPPED, NO_PEER_ACCESS, WorldSpec
from .judge import SHOWN, End, Evidence, Result
from .litmus import Litmus
from .model import check
from .rounds import CACHES, Rounds
from .shipped import shipped
from .text import read

FAIL_CODE, INCONCLUSIVE_CODE = 1, 3
SEGMENT = "64M"
# Instances of each test by which a world is judged; a tenth of them is the default of a run.
FULL_INSTANCES = {MAPPED: 1_000_000, NO_PEER_ACCESS: 100_000, HOSTS: 10_000}


@dataclass(frozen=True)
class Options:
    """How tests are played. `ranks` None: as many as the test has lanes; `instances` None: a tenth of FULL_INSTANCES.

    `line_cache` bytes (a size) a rank keeps of cached memory, by the coherence `protocol`; None as in any world.
    """

    world: str = MAPPED
    ranks: int | None = None
    cache: str = "none"
    instances: int | None = None
    seed: int = 1
    line_cache: str | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        WorldSpec.of(self.ranks or 1, self.world)  # raises for what cannot be a world
        if self.cache not in CACHES:
            raise UnknownName("cache", self.cache, CACHES)
        if self.instances is not None and self.instances < 1:
            raise ConfigError(f"instances={self.instances}: a test is played at least once")

    @property
    def num_instances(self) -> int:
        """How often each test is played, at least."""
        return FULL_INSTANCES[self.world] // 10 if self.instances is None else self.instances


def tests_of(files: Sequence[Path]) -> list[Litmus]:
    """The tests in `files`, or the shipped ones where none are given."""
    return [read(file) for file in files] if files else shipped()


def run(console: Console, tests: Sequence[Litmus], options: Options, ends: int = SHOWN) -> int:
    """Play the tests and print a table with the `ends` most common ends of each.

    Returns FAIL_CODE where a forbidden end was seen; INCONCLUSIVE_CODE where one showed nothing, or none ran; else 0.
    """
    found = play(tests, options)
    cores = len(limits.usable_cores())
    settings = (f"world {options.world}", f"cache {options.cache}", f"seed {options.seed}", f"{cores} cores")
    asked = (("line cache", options.line_cache), ("protocol", options.protocol))
    chosen = tuple(f"{name} {value}" for name, value in asked if value is not None)
    console.print(", ".join(settings + chosen), highlight=False, markup=False)
    console.print(table(found, cores, ends))
    for evidence in found:
        for condition, number in evidence.forbidden.items():
            text = f"{evidence.litmus.name}: forbidden, and seen {number:,} times: {condition}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    if all(evidence.result is Result.WAIVED for evidence in found):
        text = (
            f"nothing was played: every test needs more than {options.ranks} ranks; leave -n out, or raise it"
        )
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return exit_code([evidence.result for evidence in found])


def exit_code(results: Iterable[Result]) -> int:
    """The exit code for these results. Where all tests were waived, it is INCONCLUSIVE_CODE: nothing was shown."""
    seen = set(results)
    if Result.FAIL in seen:
        return FAIL_CODE
    return INCONCLUSIVE_CODE if Result.INCONCLUSIVE in seen or seen <= {Result.WAIVED} else 0


def play(tests: Sequence[Litmus], options: Options) -> list[Evidence]:
    """Play each test in a world of as many ranks as it has lanes, or `options.ranks`; tests of one number share it."""
    by_ranks: dict[int, list[Litmus]] = {}
    for litmus in tests:
        by_ranks.setdefault(options.ranks or len(litmus.lanes), []).append(litmus)
    found: dict[int, Evidence] = {}
    for num_ranks, group in by_ranks.items():
        playable = [litmus for litmus in group if len(litmus.lanes) <= num_ranks]
        seen = _in_world(playable, num_ranks, options) if playable else []
        found |= {id(evidence.litmus): evidence for evidence in seen}
    return [found.get(id(litmus), Evidence(litmus, options.ranks or 0, {})) for litmus in tests]


def table(found: Sequence[Evidence], cores: int, ends: int = SHOWN) -> Table:
    """The evidence as a table, a row a test."""
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    drawn.add_column("test", no_wrap=True)
    for name in ("ranks", "a core", "instances"):
        drawn.add_column(name, justify="right")
    drawn.add_column("what was seen", overflow="fold")
    for name in ("forbidden", "allowed"):
        drawn.add_column(name, justify="right")
    drawn.add_column("result", no_wrap=True)
    drawn.add_column("s", justify="right")
    for evidence in found:
        litmus = evidence.litmus
        seen = f"{' '.join(litmus.observed)}: {evidence.text(ends)}" if evidence.ends else ""
        if evidence.result is Result.WAIVED:
            seen = f"needs {len(litmus.lanes)} ranks"
        drawn.add_row(
            litmus.name,
            str(evidence.num_ranks),
            f"{evidence.num_ranks / cores:.1f}",
            f"{evidence.num_instances:,}",
            seen,
            f"{evidence.forbidden.total():,}" if litmus.forbidden else "",
            f"{evidence.allowed.total():,}" if litmus.allowed else "",
            evidence.result,
            f"{evidence.elapsed_s:.1f}",
        )
    return drawn


def run_model(console: Console, tests: Sequence[Litmus]) -> int:
    """Search each test in sequential and in weak memory, and print a table.

    Returns FAIL_CODE where a forbidden end was found, an allowed one was not, or a search was cut short; else 0.
    """
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for name in ("test", "memory", "states", "ends", "result"):
        drawn.add_column(name, justify="right" if name in ("states", "ends") else "left")
    is_right = True
    for litmus in tests:
        for checked in check(litmus):
            verdict = checked.verdict
            unseen = ", ".join(map(str, checked.unseen))
            result = verdict.bug or (f"never seen: {unseen}" if unseen else str(verdict.result))
            row = (litmus.name, verdict.memory, str(verdict.num_states), str(len(checked.ends)), result)
            drawn.add_row(*row)
            is_right = is_right and checked.passes
    console.print(drawn)
    return 0 if is_right else FAIL_CODE


def _in_world(tests: Sequence[Litmus], num_ranks: int, options: Options) -> list[Evidence]:
    counted = launch(
        _play_all,
        ranks=num_ranks,
        world=options.world,
        segment=SEGMENT,
        line_cache=options.line_cache,
        protocol=options.protocol,
        args=(tests, options),
        preload=(__name__,),
    )
    return [
        Evidence(litmus, num_ranks, ends, elapsed_s)
        for litmus, (ends, elapsed_s) in zip(tests, counted, strict=True)
    ]


def _play_all(space: Space, tests: Sequence[Litmus], options: Options) -> list[tuple[Counter[End], float]]:
    """In every rank: the ends of each test and how long it took, at rank 0."""
    counted = []
    for litmus in tests:
        began = time.monotonic()
        rounds = Rounds(space, litmus, options.cache, options.seed)
        ends = rounds.play(options.num_instances)
        rounds.close()
        counted.append((ends, time.monotonic() - began))
    return counted
