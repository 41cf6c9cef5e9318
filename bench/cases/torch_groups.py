"""torch.distributed over umem and over gloo: a small call, and training steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..harness.side import HOME_NONE, NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register
from .torch import TORCH_PARTS, TorchCase

_PRELOAD = ("torch", "umem.torch.process_group")
WRAPPED_MODELS = ("small", "4M")


class GroupCase(TorchCase):
    """A case whose ranks have groups of several backends."""

    home = HOME_NONE
    budget_s = 6.0
    rivals: ClassVar[dict[str, str]] = {"gloo": "gloo"}

    def group_sides(self, workers: Workers, name: str, **arguments: object) -> list[Side]:
        """umem, and its rivals by their names as peers."""
        part = Part(workers.ranks(preload=_PRELOAD), f"{TORCH_PARTS}.groups:{name}", **arguments)
        return [
            PartSide("umem", NO_SEMANTICS, part, "run", transport="mapped", arguments=("umem",)),
            *(
                PartSide(side, NO_SEMANTICS, part, "run", peer=peer, arguments=(side,))
                for side, peer in self.rivals.items()
            ),
        ]


@register
class Call(GroupCase):
    """One call from Python."""

    key = "torch.all_reduce"
    description = "dist.all_reduce from Python: over umem, over gloo, and over a backend that does nothing"
    limit_side = "nothing"
    most_samples = 50
    rivals: ClassVar[dict[str, str]] = {"gloo": "gloo", "nothing": "no work"}

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=8, most=1 << 20)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return self.group_sides(workers, "AllReduce", num_bytes=point.num_bytes)


class WrappedTraining(GroupCase):
    """One training step in every rank."""

    limit_side = "alone"
    most_samples = 20
    wrapper: ClassVar[str]
    rivals: ClassVar[dict[str, str]] = {"gloo": "gloo", "alone": "one rank"}

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("model", model),)) for model in WRAPPED_MODELS]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        model = str(point.setting("model", WRAPPED_MODELS[0]))
        return self.group_sides(workers, "Training", wrapper=self.wrapper, model=model)


@register
class Ddp(WrappedTraining):
    """DistributedDataParallel."""

    key = "torch.ddp"
    wrapper = "ddp"
    description = "a training step under DistributedDataParallel: over umem, over gloo, and of one rank alone"


@register
class Fsdp(WrappedTraining):
    """fully_shard."""

    key = "torch.fsdp"
    wrapper = "fsdp"
    description = "a training step under FSDP2's fully_shard: over umem, over gloo, and of one rank alone"
