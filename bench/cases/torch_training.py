"""Training under torch: all of it in borrowed memory, or the part that is offloaded."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.side import NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register
from .torch import TORCH_PARTS, TRAINED_MODELS, TorchCase, torch_ranks

OTHER_WAYS = ("recompute", "staged", "file")


class TrainingCase(TorchCase):
    """One training step of a small model."""

    most_samples = 50
    budget_s = 10.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("model", model),)) for model in TRAINED_MODELS]

    def part(self, workers: Workers, point: Point, name: str) -> Part:
        """The part that trains this point's model."""
        model = point.setting("model", TRAINED_MODELS[0])
        return Part(torch_ranks(workers), f"{TORCH_PARTS}.{name}", model=model, seed=workers.options.seed)


@register
class Training(TrainingCase):
    """Training with all memory in the pool."""

    key = "torch.training"
    description = (
        "a training step with all that it allocates in rank 1's memory, and by torch's own allocator"
    )
    limit_side = "default"

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = self.part(workers, point, "training:Training")
        return [
            PartSide("pool", NO_SEMANTICS, part, transport="mapped"),
            PartSide("default", NO_SEMANTICS, part, peer="torch"),
        ]


@register
class Offload(TrainingCase):
    """Training with activations and optimizer state offloaded."""

    key = "torch.offload"
    description = (
        "a training step with activations and AdamW's state in rank 1's memory; other ways to save memory"
    )
    limit_side = "plain"

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = self.part(workers, point, "offload:Offload")
        return [
            PartSide("offload", NO_SEMANTICS, part, transport="mapped"),
            PartSide("plain", NO_SEMANTICS, part, peer="torch"),
            *(PartSide(way, NO_SEMANTICS, part, peer=way) for way in OTHER_WAYS),
        ]
