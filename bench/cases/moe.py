"""Mixtures of experts: tokens' rows to their experts and back."""

from __future__ import annotations

from collections.abc import Sequence

from umem.units import KIB
from umem.world.spec import MAPPED

from ..harness.case import Case
from ..harness.moe import NUM_EXPERTS, NUM_TOPK
from ..harness.side import Options, Point, Side, SlowestRankSide
from ..harness.wire import Part
from ..harness.workers import Workers
from ..peers import gloo
from .registry import register

ROW_BYTES_OF_TOKEN = KIB
NUM_TOKENS, FEW_TOKENS = 4096, 256  # of each rank


@register
class Moe(Case):
    """Dispatch and combine."""

    key = "moe"
    description = (
        f"every rank's tokens, rows of float32, to {NUM_TOPK} of {NUM_EXPERTS} experts, and the sums of what these made"
        " of them back; imbalance=1: expert e is chosen as often as 1 / (e + 1)"
    )
    semantics = ("load_store", "message")
    most_samples = 5
    budget_s = 4.0

    def points(self, options: Options) -> Sequence[Point]:
        return [point_of(NUM_TOKENS, imbalance) for imbalance in (0, 1)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [point_of(FEW_TOKENS, imbalance) for imbalance in (0, 1)]

    def meaningless(self, options: Options) -> str | None:
        if NUM_EXPERTS % options.ranks:
            return f"{NUM_EXPERTS} experts are no equal parts for {options.ranks} ranks"
        return super().meaningless(options)

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments = {
            "num_tokens": int(point.setting("tokens", NUM_TOKENS)),
            "num_columns": point.num_bytes // 4,
            "imbalance": float(point.setting("imbalance", 0)),
        }
        ways = {"load_store": "mapped"} if workers.options.world == MAPPED else {}
        ways["message"] = workers.options.transport
        sides: list[Side] = []
        for semantics, transport in ways.items():
            part = Part(workers.ranks(), "umem.bench.parts.moe:Moe", **arguments, semantics=semantics)
            side = SlowestRankSide(semantics, semantics, part, "dispatch_and_combine", transport=transport)
            sides.append(side)
        if "gloo" in workers.options.peers:
            part = Part(gloo.group(workers), "umem.bench.peers.gloo_moe:Moe", **arguments)
            sides.append(SlowestRankSide("gloo", "message", part, "block", peer="gloo", transport="tcp"))
        return sides

    def bytes_moved(self, point: Point) -> int:
        return 2 * NUM_TOPK * int(point.setting("tokens", NUM_TOKENS)) * point.num_bytes


def point_of(num_tokens: int, imbalance: int) -> Point:
    """The point of as many tokens a rank."""
    return Point(ROW_BYTES_OF_TOKEN, (("tokens", num_tokens), ("imbalance", imbalance)))
