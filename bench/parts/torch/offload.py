"""Ways to train with less memory of one's own: activations and optimizer state elsewhere, or computed again."""

from __future__ import annotations

from typing import Any

import torch

from umem.space.space import Space
from umem.torch import home, offload_activations, offload_optimizer

from ...harness.stats import Samples
from .swap import File, PutOut, SwappedOptimizer, into_buffer, is_worth_it, swapped_activations
from .trainer import Trainer
from .training import TrainingPart


class PooledTrainer(Trainer):
    """Activations and the optimizer's state live at `home`; weights and gradients where torch puts them."""

    def __init__(self, model: str, seed: int, home: int):
        super().__init__(model, seed)
        self._home = home
        offload_optimizer(self.optimizer, home)

    def loss(self) -> torch.Tensor:
        with offload_activations(self._home, keep=self.model):
            return super().loss()


class SwappingTrainer(Trainer):
    """Activations and the optimizer's state are out between their uses."""

    def __init__(self, model: str, seed: int, put_out: PutOut):
        super().__init__(model, seed)
        self._put_out = put_out
        self._state = SwappedOptimizer(self.optimizer, put_out)

    def loss(self) -> torch.Tensor:
        with swapped_activations(self._put_out, self.model):
            return super().loss()


class Offload(TrainingPart):
    """Rank 0 trains the same model in each of these ways. A side's model is made when it is first called."""

    def __init__(self, space: Space, model: str, seed: int):
        super().__init__(space)
        self._what = model, seed
        self._trainers: dict[str, Trainer] = {}
        self._file = File()

    def plain(self, num_samples: int) -> Samples | None:
        """Everything in torch's own memory."""
        return self._train("plain", num_samples, Trainer)

    def offload(self, num_samples: int) -> Samples | None:
        """umem: written to the neighbour's memory once, and read there."""
        return self._train("offload", num_samples, PooledTrainer, self.home)

    def recompute(self, num_samples: int) -> Samples | None:
        """Activations are computed again; the optimizer's state stays."""
        return self._train("recompute", num_samples, Trainer, True)

    def staged(self, num_samples: int) -> Samples | None:
        """Copied out to private buffers, and back."""
        return self._train("staged", num_samples, SwappingTrainer, into_buffer)

    def file(self, num_samples: int) -> Samples | None:
        """Written to a file, and read back."""
        return self._train("file", num_samples, SwappingTrainer, self._file)

    def _train(self, name: str, num_samples: int, make: type[Trainer], *arguments: Any) -> Samples | None:
        if not self.is_timed:
            return None
        if name not in self._trainers:
            self._trainers[name] = make(*self._what, *arguments)
        return self.trained(self._trainers[name], num_samples)

    def check_homes(self, trainer: Trainer) -> None:
        here: dict[type[Trainer], set[int | None]] = {PooledTrainer: {self.home}, SwappingTrainer: set()}
        found = {home(tensor) for tensor in trainer.moments() if is_worth_it(tensor)}
        self.expect(found == here.get(type(trainer), {None}))

    def close(self) -> None:
        self._trainers.clear()
        self._file.close()
        super().close()
