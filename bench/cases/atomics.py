"""Atomics on a word of the peer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from umem.world.spec import MAPPED

from .. import peers
from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register

ATOMICS = "umem.bench.parts.atomics"


class Atomic(Case):
    """One operation, alone or against another rank."""

    operation: ClassVar[str]
    semantics: ClassVar[tuple[str, ...]] = ("load_store", "rma", "near")
    limit_side: ClassVar[str | None] = "c"
    most_samples = 50
    budget_s = 1.5

    def points(self, options: Options) -> Sequence[Point]:
        alone = Point(8, (("contended", 0),))
        return [alone, Point(8, (("contended", 1),))] if options.world == MAPPED else [alone]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        contended = int(point.setting("contended", 0))
        word = Part(workers.ranks(), f"{ATOMICS}:Word", operation=self.operation, contended=contended)
        transport = workers.options.transport
        sides: list[Side] = []
        if workers.options.world == MAPPED:
            sides.append(PartSide("load_store", "load_store", word, transport="mapped"))
            if self.operation != "exchange":
                sides.append(PartSide("c", "none", word, needs_c=True, peer="c", transport="mapped"))
        if not contended:
            remote = Part(workers.ranks(), f"{ATOMICS}:RemoteWord", operation=self.operation)
            sides.append(PartSide("rma", "rma", remote, transport=transport))
            sides.append(PartSide("near", "near", word, transport=transport))
        if not contended and self.operation == "fetch_add":
            sides += peers.sides(workers, "fetch_add", point)
        return sides

    def bytes_moved(self, point: Point) -> int:
        return 0


@register
class FetchAdd(Atomic):
    """Fetch and add."""

    key = "atomics.fetch_add"
    operation = "fetch_add"
    description = "rank 0 adds to the peer's word, a sample is the mean of 1,000; contended: rank 1 does too"


@register
class CompareSwap(Atomic):
    """Compare and swap."""

    key = "atomics.compare_swap"
    operation = "compare_swap"
    description = "rank 0 counts by compare-and-swap on the peer's word; contended: rank 1 does too"


@register
class Exchange(Atomic):
    """Exchange."""

    key = "atomics.exchange"
    operation = "exchange"
    limit_side = None
    description = "rank 0 exchanges the peer's word for the next number"

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]
