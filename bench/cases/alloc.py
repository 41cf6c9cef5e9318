"""The heap against glibc's."""

from __future__ import annotations

from collections.abc import Sequence

from ..case import NO_SEMANTICS, Case, Options, PartSide, Point, Side
from ..driver import Bench
from ..registry import register
from ..wire import Part


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

    def sides(self, bench: Bench, point: Point) -> Sequence[Side]:
        contended = int(point.setting("contended", 0))
        part = Part(
            bench.ranks(), "umem.bench.parts.alloc:Churn", contended=contended, seed=bench.options.seed
        )
        return [
            PartSide("umem", NO_SEMANTICS, part, transport="mapped"),
            PartSide("glibc", NO_SEMANTICS, part, needs_c=True, peer="glibc"),
        ]
