"""The heap against glibc's."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.case import Case
from ..harness.side import NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register


@register
class Alloc(Case):
    """alloc + free pairs."""

    key = "alloc"
    description = (
        "a random live block of 64 B to 4 KiB is freed and another allocated; a sample is a mean of 5,000"
    )
    limit_side = "glibc"
    worlds = ("mapped",)
    home = "rank 0"
    most_samples = 20
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("contended", contended),)) for contended in (0, 1)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        contended = int(point.setting("contended", 0))
        part = Part(
            workers.ranks(), "umem.bench.parts.alloc:Churn", contended=contended, seed=workers.options.seed
        )
        return [
            PartSide("umem", NO_SEMANTICS, part, transport="mapped"),
            PartSide("glibc", NO_SEMANTICS, part, needs_c=True, peer="glibc"),
        ]
