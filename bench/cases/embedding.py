"""Look-ups in a table that is spread over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

from umem.units import GIB

from ..harness.side import HOME_NONE, Options, Point, Side, SlowestRankSide
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register
from .torch import TORCH_PARTS, TorchCase

ROW_SIZES = (64, 256, 1024)
BATCH_LOOKUPS = 4096 * 20
_PRELOAD = ("torch", "umem.embedding")


@register
class EmbeddingBag(TorchCase):
    """Sums of bags; a point is the bytes of a row of float32."""

    key = "embedding.bag"
    description = (
        "4096 bags of 20 rows a rank, of a million rows spread over the ranks, from Python; C over a copy in each rank;"
        " torch over a copy in one, with a thread for each rank"
    )
    semantics = ("load_store",)
    home = HOME_NONE
    limit_side = "c"
    most_samples = 20
    budget_s = 15.0

    def points(self, options: Options) -> Sequence[Point]:
        inside = [size for size in ROW_SIZES if options.begin_bytes <= size <= options.end_bytes]
        return [Point(size) for size in inside or ROW_SIZES[1:2]]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(ROW_SIZES[0])]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        ranks = workers.ranks(segment_bytes=GIB, preload=_PRELOAD)
        arguments = {"num_columns": point.num_bytes // 4, "seed": workers.options.seed}
        part = Part(ranks, f"{TORCH_PARTS}.embedding:Bags", **arguments)
        return [
            SlowestRankSide("load_store", "load_store", part, transport="mapped"),
            SlowestRankSide("c", "none", part, peer="C", needs_c=True),
            SlowestRankSide("torch", "none", part, peer="torch"),
        ]

    def bytes_moved(self, point: Point) -> int:
        return BATCH_LOOKUPS * point.num_bytes
