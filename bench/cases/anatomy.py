"""The cost of the five steps of the staged path, beside one pass of loads and stores."""

from __future__ import annotations

from collections.abc import Sequence

from umem.world.spec import MAPPED

from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register

STEPS = ("copy_out", "pack", "transfer", "unpack", "copy_in")
MAX_ROWS = 256


@register
class Anatomy(Case):
    """A slice, every other row of a matrix in the peer's memory, brought here."""

    key = "anatomy"
    description = (
        "a strided slice of the peer's matrix, by the five steps of the staged path and by loads and stores"
    )
    semantics = ("load_store", "staged")
    most_samples = 20
    budget_s = 2.5

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8), Point(4096), Point(1 << 20)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        row_bytes = max(8, point.num_bytes // MAX_ROWS)
        part = Part(
            workers.ranks(),
            "umem.bench.parts.anatomy:Slice",
            num_rows=point.num_bytes // row_bytes,
            row_bytes=row_bytes,
        )
        transport = workers.options.transport
        staged: list[Side] = [PartSide("staged", "staged", part, transport=transport)]
        staged += [
            PartSide(
                f"staged.{step}", "staged", part, "step", transport=transport, detail=step, arguments=(step,)
            )
            for step in STEPS
        ]
        if workers.options.world != MAPPED:
            return staged
        return [PartSide("load_store", "load_store", part, transport="mapped"), *staged]
