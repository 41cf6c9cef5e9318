"""torch's CPU allocator: in the pool, installed but not in use, and torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes.util import find_library

from umem.errors import Waived

from ..harness.side import NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register
from .torch import TORCH_PARTS, TRAINED_MODELS, TorchCase, alone, torch_ranks

MALLOCS = ("jemalloc", "mimalloc")


class PreloadSide(PartSide):
    """torch over another malloc, in a process of its own that was started with it."""

    def __init__(self, workers: Workers, name: str, **arguments: object):
        self._library = find_library(name)
        part = Part(
            alone(workers, self._library), f"{TORCH_PARTS}.allocator:RawAlone", library=name, **arguments
        )
        super().__init__(name, NO_SEMANTICS, part, "block", peer=name)

    def open(self) -> None:
        if self._library is None:
            raise Waived(f"{self.name} is not installed (Debian: apt install lib{self.name}-dev)")
        super().open()


@register
class Raw(TorchCase):
    """The allocator called from compiled code, as c10::Allocator."""

    key = "torch.raw"
    description = "allocations and frees of a training step through torch's allocator, by compiled code"
    limit_side = "default"
    most_samples = 20
    budget_s = 4.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("model", model),)) for model in TRAINED_MODELS]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments: dict[str, object] = {
            "model": point.setting("model", TRAINED_MODELS[0]),
            "seed": workers.options.seed,
        }
        part = Part(torch_ranks(workers), f"{TORCH_PARTS}.allocator:Raw", **arguments)
        apart = Part(alone(workers), f"{TORCH_PARTS}.allocator:RawAlone", library="", **arguments)
        return [
            PartSide("pool", NO_SEMANTICS, part, transport="mapped"),
            PartSide("inactive", NO_SEMANTICS, part, detail="inactive"),
            PartSide("default", NO_SEMANTICS, part, peer="torch"),
            PartSide("alone", NO_SEMANTICS, apart, "block", peer="torch alone"),
            *(PreloadSide(workers, name, **arguments) for name in MALLOCS),
        ]


@register
class Empty(TorchCase):
    """The allocator called through torch.empty."""

    key = "torch.empty"
    description = "torch.empty of 64 B to 64 KiB and the end of the tensor; a sample is a mean of 2,000"
    limit_side = "default"
    most_samples = 20
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(torch_ranks(workers), f"{TORCH_PARTS}.allocator:Empty", seed=workers.options.seed)
        return [
            PartSide("pool", NO_SEMANTICS, part, transport="mapped"),
            PartSide("inactive", NO_SEMANTICS, part, detail="inactive"),
            PartSide("default", NO_SEMANTICS, part, peer="torch"),
        ]
