"""A scalar load from Python."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register


@register
class PythonLoad(Case):
    """space.load against the entry into compiled code."""

    key = "python_load"
    description = (
        "space.load(address, 'int64') of the peer's word, uncached and from a copy (back),"
        " and an empty compiled call with its arguments"
    )
    semantics = ("load_store",)
    worlds = ("mapped",)
    limit_side = "empty_call"
    most_samples = 10
    budget_s = 1.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(workers.ranks(), "umem.bench.parts.python_load:Load")
        return [
            PartSide("load_store", "load_store", part, transport="mapped"),
            PartSide("cached_load", "load_store", part, transport="mapped", detail="hit", cache="back"),
            PartSide("empty_call", "none", part, peer="empty call"),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0
