"""The time of one access: a line that the peer just stored, dependent loads of its memory, a message."""

from __future__ import annotations

from collections.abc import Sequence

from umem import limits
from umem.units import GIB, MIB, format_size

from .. import peers
from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import SEGMENT_BYTES, Workers
from .registry import register

_LATENCY = "umem.bench.parts.latency"
MEMORY_PER_CHAIN = 3  # bytes that must be free for each of a chain's: the peer's, one's own, and room
MAX_MESSAGE_BYTES = 4 * MIB
_OPERATIONS = {"get": "get", "put": "put", "ping_pong": "put_ping_pong"}  # of peers, by direction


@register
class Line(Case):
    """A line that goes to the peer and back."""

    key = "latency.line"
    description = "ranks 0 and 1 store and load one line in turn; a sample is the mean of 5,000 round trips"
    semantics = ("load_store",)
    worlds = ("mapped",)
    limit_side = "c"
    min_cores = 2
    most_samples = 10
    budget_s = 1.5

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(workers.ranks(), f"{_LATENCY}:Line", num_rounds=5000)
        return [
            PartSide("load_store", "load_store", part, transport="mapped"),
            PartSide("c", "none", part, needs_c=True, peer="c", transport="mapped"),
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
    budget_s = 5.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(GIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(256 * MIB)]

    def waived(self, options: Options, brief: bool = False) -> str | None:
        (point,) = self.brief_points(options) if brief else self.points(options)
        needed = MEMORY_PER_CHAIN * point.num_bytes
        if limits.available_memory_bytes() < needed:
            chains = f"two chains of {format_size(point.num_bytes)}"
            return f"needs {format_size(needed)} of free memory for {chains}"
        return super().waived(options, brief)

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        ranks = workers.ranks(segment_bytes=max(SEGMENT_BYTES, 2 * point.num_bytes))
        part = Part(ranks, f"{_LATENCY}:Chase", num_bytes=point.num_bytes, num_steps=2000)
        return [
            PartSide("load_store", "load_store", part, "peer", transport="mapped"),
            PartSide("private", "none", part, "own", peer="private memory"),
            PartSide("c", "none", part, needs_c=True, peer="c"),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0


@register
class Message(Case):
    """A message to the peer; the peer's user code receives it."""

    key = "latency.message"
    description = "half a round trip of a message between ranks 0 and 1, each round trip timed, both polling"
    semantics = ("message",)
    most_samples = 500
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(most=MAX_MESSAGE_BYTES)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8), Point(4096)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(workers.ranks(), "umem.bench.parts.message:Message", num_bytes=point.num_bytes)
        transport = workers.options.transport
        return [
            PartSide("message", "message", part, transport=transport),
            *peers.sides(workers, "message", point),
        ]


@register
class OneSided(Case):
    """Gets and puts over UCX: the home's agent answers, its user code does not take part."""

    key = "latency.rma"
    description = (
        "rank 0 gets and puts over UCX, each put confirmed by the home's agent; ping_pong: half a round trip of puts "
        "that nobody confirms, between two polling ranks, which is what ucx_perftest measures of puts"
    )
    semantics = ("rma",)
    most_samples = 500
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        sizes = options.sizes(least=8, most=MAX_MESSAGE_BYTES)
        return [Point(size // 8 * 8, (("direction", way),)) for way in _OPERATIONS for size in sizes]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8, (("direction", way),)) for way in _OPERATIONS]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        way = str(point.setting("direction", "get"))
        kind = "PutPingPong" if way == "ping_pong" else "Access"
        part = Part(workers.ranks(), f"umem.bench.parts.message:{kind}", num_bytes=point.num_bytes)
        transport = workers.options.transport
        return [
            PartSide("rma", "rma", part, way, transport=transport),
            *peers.sides(workers, _OPERATIONS[way], point),
        ]
