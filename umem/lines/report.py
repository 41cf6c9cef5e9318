"""Which lines ranks take from each other again and again, and whether they share anything but the line.

False sharing: ranks use different parts of one line, so each takes it from the others for nothing. Seen from
misses alone: of each line that others had taken, what the access that missed has loaded or stored, in 64ths of
the line (and never less than 8 bytes). What only ever hits is not seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np

from ..kernels.coherent import layout as words
from ..kernels.coherent.misses import PARTS_LOG2
from ..world import World

FALSE_SHARING, SHARING, ONE_RANK = "false sharing", "sharing", "one rank"
NUM_PARTS = 1 << PARTS_LOG2
ALL_PARTS = (1 << NUM_PARTS) - 1


@dataclass(frozen=True)
class LineUse:
    """One rank's use of a line that it kept losing: misses, and a bit for each 64th of the line that it touched."""

    rank: int
    address: int
    line_bytes: int
    misses: int
    loaded: int
    stored: int

    @property
    def used(self) -> int:
        """Parts that were loaded or stored."""
        return self.loaded | self.stored


@dataclass(frozen=True)
class SharedLine:
    """A line that ranks take from each other, with each rank's use of it."""

    address: int
    line_bytes: int
    uses: tuple[LineUse, ...]

    @property
    def misses(self) -> int:
        """Of all ranks."""
        return sum(use.misses for use in self.uses)

    @property
    def verdict(self) -> str:
        """FALSE_SHARING where nothing that one rank stores is used by another, SHARING, ONE_RANK.

        ONE_RANK: no other has noted the line, so nothing can be said.
        """
        if len(self.uses) < 2:
            return ONE_RANK
        meets = any(a.stored & b.used for a in self.uses for b in self.uses if a.rank != b.rank)
        return SHARING if meets else FALSE_SHARING


class Cache(Protocol):
    """A rank's copies, as far as they report."""

    def report(self) -> list[LineUse]:
        """The lines that the rank keeps losing."""


class Rank(Protocol):
    """A space, as far as `gather` needs one."""

    @property
    def world(self) -> World:
        """The ranks that report."""

    @property
    def cache(self) -> Cache:
        """This rank's copies."""


def uses(counters: np.ndarray, rank: int) -> list[LineUse]:
    """The lines noted in the COUNTER words of `rank`, those with most misses first."""
    size = words.NOTED_WORDS << words.NOTED_LOG2
    rows = counters[words.MISSES : words.MISSES + size].reshape(-1, words.NOTED_WORDS)
    found = [
        LineUse(
            rank,
            int(row[words.NOTED_LINE]) & -NUM_PARTS,
            1 << (int(row[words.NOTED_LINE]) & words.LINE_LOG2_MASK),
            int(row[words.NOTED_COUNT]),
            int(row[words.NOTED_LOADS]) & ALL_PARTS,
            int(row[words.NOTED_STORES]) & ALL_PARTS,
        )
        for row in rows.copy()
        if row[words.NOTED_LINE]
    ]
    return sorted(found, key=lambda use: -use.misses)


def gather(space: Rank) -> list[SharedLine]:
    """The lines that ranks take from each other, of all ranks. Collective."""
    mine = json.dumps([astuple(use) for use in space.cache.report()]).encode()
    return merge([LineUse(*use) for use in json.loads(one)] for one in space.world.exchange("lines", mine))


def merge(reports: Iterable[Sequence[LineUse]]) -> list[SharedLine]:
    """The lines of all ranks' reports (`space.cache.report()` of each), those with most misses first."""
    lines: dict[tuple[int, int], list[LineUse]] = {}
    for use in (use for report in reports for use in report):
        lines.setdefault((use.address, use.line_bytes), []).append(use)
    merged = [
        SharedLine(*key, tuple(sorted(found, key=lambda use: use.rank))) for key, found in lines.items()
    ]
    return sorted(merged, key=lambda line: -line.misses)


def text(lines: Sequence[SharedLine], most: int = 20) -> str:
    """A line of text for each line of memory: address, misses, the kind of sharing, and each rank's bytes."""
    told = [
        f"{line.address:#x} {line.misses:>8} misses  {line.verdict}: {_ranks(line)}" for line in lines[:most]
    ]
    return "\n".join(told) if told else "no line was taken from a rank that used it again"


def _ranks(line: SharedLine) -> str:
    part_bytes = line.line_bytes // NUM_PARTS
    told = []
    for use in line.uses:
        stores = f"stores {_bytes(use.stored, part_bytes)}" if use.stored else ""
        loads = f"loads {_bytes(use.loaded, part_bytes)}" if use.loaded else ""
        told.append(f"rank {use.rank} " + " and ".join(what for what in (stores, loads) if what))
    return ", ".join(told)


def _bytes(parts: int, part_bytes: int) -> str:
    """Bytes of the line that the parts cover: `0-7 64-127`."""
    return " ".join(f"{first * part_bytes}-{(last + 1) * part_bytes - 1}" for first, last in _runs(parts))


def _runs(parts: int) -> Iterator[tuple[int, int]]:
    """First and last of each run of set bits."""
    first = None
    for part in range(NUM_PARTS + 1):
        is_set = bool(parts >> part & 1)
        if is_set and first is None:
            first = part
        elif not is_set and first is not None:
            yield first, part - 1
            first = None
