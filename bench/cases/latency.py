"""How long one access takes: a line the peer just stored, dependent loads of its memory."""

from __future__ import annotations

from collections.abc import Sequence

from umem import config
from umem.units import GIB, MIB

from ..case import Case, Options, PartSide, Point, Side
from ..driver import Bench
from ..registry import register
from ..wire import Part

LATENCY = "umem.bench.parts.latency"


@register
class Line(Case):
    """A line that goes to the peer and back."""

    key = "latency.line"
    description = "ranks 0 and 1 store and load one line in turn; a sample is the mean of 5,000 round trips"
    semantics = ("load_store",)
    worlds = ("mapped",)
    limit_side = "c"
    most_samples = 10
    budget_s = 1.5

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def sides(self, bench: Bench, point: Point) -> Sequence[Side]:
        part = Part(bench.ranks(), f"{LATENCY}:Line", num_rounds=5000)
        return [
            PartSide("load_store", "load_store", part, transport="mapped"),
            PartSide("c", "none", part, "c", peer="c", transport="mapped"),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0


@register
class Chase(Case):
    """Dependent loads: each gives the address of the next, so nothing hides the latency."""

    key = "latency.chase"
    description = "rank 0 follows a chain through every line of the peer's memory, and of its own; per load"
    semantics = ("load_store",)
    worlds = ("mapped",)
    limit_side = "private"
    most_samples = 20
    budget_s = 6.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(GIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(256 * MIB)]

    def waived(self, options: Options) -> str | None:
        needed = 3 * GIB
        if config.available_memory_bytes() < needed:
            return "needs 3 GiB of free memory for two chains of 1 GiB"
        return super().waived(options)

    def sides(self, bench: Bench, point: Point) -> Sequence[Side]:
        ranks = bench.ranks(segment_bytes=2 * point.num_bytes)
        part = Part(ranks, f"{LATENCY}:Chase", num_bytes=point.num_bytes, num_steps=2000)
        return [
            PartSide("load_store", "load_store", part, "peer", transport="mapped"),
            PartSide("private", "none", part, "own", peer="private memory"),
            PartSide("c", "none", part, "c", peer="c, private memory"),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0
