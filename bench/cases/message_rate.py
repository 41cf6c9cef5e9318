"""Small messages a second: many in flight, and several for one doorbell."""

from __future__ import annotations

from collections.abc import Sequence

from .. import peers
from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register

NUM_MESSAGES = 8192  # a batch; a multiple of every doorbell's
_BYTES = 8


@register
class Window(Case):
    """Messages in flight."""

    key = "message_rate.window"
    description = "8-byte messages from rank 0 to rank 1, some in flight; the time is 1 / rate"
    semantics = ("message",)
    most_samples = 10
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(_BYTES, (("window", window),)) for window in (1, 4, 16, 64)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(_BYTES, (("window", window),)) for window in (1, 64)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(
            workers.ranks(),
            "umem.bench.parts.message:Stream",
            num_bytes=_BYTES,
            window=int(point.setting("window", 1)),
            num_messages=NUM_MESSAGES if workers.options.world != "hosts" else NUM_MESSAGES // 16,
        )
        transport = workers.options.transport
        return [
            PartSide("message", "message", part, transport=transport),
            *peers.sides(workers, "stream", point),
        ]


@register
class Doorbell(Case):
    """Messages per doorbell."""

    key = "message_rate.doorbell"
    description = (
        "8-byte messages stored into a ring at rank 1, one release store for each few; the time is 1 / rate"
    )
    semantics = ("load_store",)
    worlds = ("mapped",)
    most_samples = 10
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(_BYTES, (("per_doorbell", count),)) for count in (1, 4, 16, 64)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(_BYTES, (("per_doorbell", count),)) for count in (1, 64)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(
            workers.ranks(),
            "umem.bench.parts.message_rate:Ring",
            per_doorbell=int(point.setting("per_doorbell", 1)),
            num_messages=NUM_MESSAGES,
        )
        return [PartSide("load_store", "load_store", part, transport="mapped")]
