"""A tensor between processes: by address, or as torch shares memory."""

from __future__ import annotations

from collections.abc import Sequence

from umem.units import KIB, MIB

from ..harness.side import NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .import_time import ConstantSide
from .registry import register
from .torch import TORCH_PARTS, TorchCase, torch_ranks

TORCH_WAYS = ("file_descriptor", "share_memory")


class SharingCase(TorchCase):
    """A float32 tensor through a multiprocessing queue."""

    most_samples = 100
    budget_s = 3.0
    in_bytes = False

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=KIB, most=64 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(4 * MIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(torch_ranks(workers), f"{TORCH_PARTS}.sharing:Sharing", num_bytes=point.num_bytes)
        chosen = (self.in_bytes,)
        return [
            PartSide("umem", NO_SEMANTICS, part, transport="mapped", arguments=chosen),
            *(PartSide(way, NO_SEMANTICS, part, peer=way, arguments=chosen) for way in TORCH_WAYS),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0


@register
class Time(SharingCase):
    """Seconds from the sending until the answer."""

    key = "torch.sharing"
    description = (
        "a tensor through a multiprocessing queue, until the receiver's answer: by address, by descriptor"
    )
    limit_side = "share_memory"


@register
class Wire(SharingCase):
    """Bytes that the queue carries."""

    key = "torch.wire"
    description = (
        "bytes that a queue carries for a tensor that arrives at the same address (in place of seconds)"
    )
    most_samples = 5
    in_bytes = True

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [*super().sides(workers, point), ConstantSide("kib", float(KIB), peer="1 KiB")]
