"""Collective operations of all ranks, in nccl-tests' terms: by a team, by MPI, by gloo, and the floor under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from umem.units import KIB, MIB
from umem.world.spec import MAPPED

from ..harness.case import Case
from ..harness.collective import IN_BLOCKS, IN_PLACE, ITEM_BYTES, REDUCING, TOGETHER_BYTES
from ..harness.side import Options, Point, Side, SlowestRankSide
from ..harness.wire import Group, Part
from ..harness.workers import SEGMENT_BYTES, Workers
from ..peers import collectives
from .registry import register

FLOOR = "floor"


class Collective(Case):
    """One operation, over sizes, out of place and in place.

    Inputs are written before every operation and outputs read and compared after it: up to TOGETHER_BYTES inside
    the time of all sides, beyond outside of it.
    """

    operation: ClassVar[str]
    semantics = ("load_store", "message")
    limit_side = FLOOR
    most_samples = 50
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        sizes = dict.fromkeys(self._whole(size, options) for size in options.sizes(most=64 * MIB))
        return [Point(size, settings) for size in sizes for settings in self._settings(options)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        sizes = dict.fromkeys(self._whole(size, options) for size in (8, 256 * KIB))
        return [Point(size, settings) for size in sizes for settings in self._settings(options)]

    def _whole(self, num_bytes: int, options: Options) -> int:
        """The nearest size below in which every block has whole elements; at least one."""
        unit = ITEM_BYTES[options.dtype] * (options.ranks if self.operation in IN_BLOCKS else 1)
        return max(num_bytes // unit, 1) * unit

    def _settings(self, options: Options) -> list[tuple[tuple[str, int | str], ...]]:
        both = (0, 1) if self.operation in IN_PLACE else (0,)
        chosen = both if options.in_place is None else (int(options.in_place),)
        special: list[tuple[str, int | str]] = []
        if options.dtype != Options.dtype:
            special.append(("dtype", options.dtype))
        if options.op != Options.op and self.operation in REDUCING:
            special.append(("op", options.op))
        return [(("in_place", place), *special) for place in both if place in chosen]

    def meaningless(self, options: Options) -> str | None:
        if options.in_place and self.operation not in IN_PLACE:
            return "is never in place; leave out --in-place"
        return super().meaningless(options)

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments = arguments_of(self.operation, point)
        ranks = workers.ranks(segment_bytes=max(SEGMENT_BYTES, 3 * point.num_bytes))
        part = Part(ranks, "umem.bench.parts.collective_messages:Message", **arguments)
        return [
            *(self._mapped_sides(ranks, point) if workers.options.world == MAPPED else ()),
            SlowestRankSide("message", "message", part, transport=workers.options.transport),
            *collectives.sides(workers, arguments),
        ]

    def _mapped_sides(self, ranks: Group, point: Point) -> list[Side]:
        part = Part(ranks, "umem.bench.parts.collective:Mapped", **arguments_of(self.operation, point))
        method, name = ("stream", "streaming")
        if point.num_bytes <= TOGETHER_BYTES:
            method, name = ("line_there_and_back", "line there and back")
        floor = SlowestRankSide(FLOOR, "none", part, method, peer=name, transport="mapped")
        if method != "stream":
            floor.min_cores = 2  # it polls
        return [SlowestRankSide("load_store", "load_store", part, transport="mapped"), floor]


def arguments_of(operation: str, point: Point) -> dict[str, object]:
    """What parts of this operation take, of umem and of peers."""
    return {
        "operation": operation,
        "num_bytes": point.num_bytes,
        "dtype": str(point.setting("dtype", Options.dtype)),
        "op": str(point.setting("op", Options.op)),
        "in_place": bool(point.setting("in_place", 0)),
    }


@register
class AllReduce(Collective):
    """Combined to all."""

    key, operation = "collective.all_reduce", "all_reduce"
    description = "all ranks' buffers are combined, element by element, into all ranks' buffers"


@register
class AllGather(Collective):
    """Joined at all."""

    key, operation = "collective.all_gather", "all_gather"
    description = "every rank's block goes to all ranks"


@register
class ReduceScatter(Collective):
    """Combined, a block each."""

    key, operation = "collective.reduce_scatter", "reduce_scatter"
    description = "all ranks' buffers are combined; every rank gets a block of the result"


@register
class Broadcast(Collective):
    """From one to all."""

    key, operation = "collective.broadcast", "broadcast"
    description = "rank 0's buffer goes to all ranks"


@register
class AllToAll(Collective):
    """Blocks from each to each."""

    key, operation = "collective.all_to_all", "all_to_all"
    description = "every rank has a block for each rank"


@register
class Barrier(Collective):
    """No data."""

    key, operation = "collective.barrier", "barrier"
    description = "no rank goes on before all have come"

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]
