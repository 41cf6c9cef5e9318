"""A training step with everything in the neighbour's memory, and with torch's own allocator."""

from __future__ import annotations

import time
from abc import abstractmethod

import numpy as np

from umem.space.space import Space
from umem.torch import home

from ...harness.stats import Samples
from .base import TorchPart, uninstalled
from .trainer import Trainer


class Weights:
    """The weights after each number of steps, of the side that came there first."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}

    def are_equal(self, trainer: Trainer) -> bool:
        """Whether this trainer's weights are, bit by bit, those of others after as many steps."""
        digest = trainer.digest()
        return self._digests.setdefault(trainer.num_steps, digest) == digest


class TrainingPart(TorchPart):
    """Rank 0 trains copies of one model, one a side, in turns."""

    def __init__(self, space: Space):
        super().__init__(space)
        self._weights = Weights()

    def trained(self, trainer: Trainer, num_steps: int) -> Samples:
        """Seconds of each step; the weights must equal the other sides' then, and live where they should."""
        samples = np.empty(num_steps)
        trainer.resume()
        for step in range(num_steps):
            begin = time.perf_counter_ns()
            trainer.step()
            samples[step] = (time.perf_counter_ns() - begin) * 1e-9
        trainer.pause()
        self.expect(self._weights.are_equal(trainer))
        self.check_homes(trainer)
        return samples

    @abstractmethod
    def check_homes(self, trainer: Trainer) -> None:
        """Expect this trainer's tensors where its side keeps them."""


class Training(TrainingPart):
    """One model in the neighbour's memory, its twin in torch's own."""

    def __init__(self, space: Space, model: str, seed: int):
        super().__init__(space)
        if self.is_timed:
            with self.at_neighbour():
                self._in_pool = Trainer(model, seed)
            with uninstalled():
                self._by_default = Trainer(model, seed)

    def pool(self, num_samples: int) -> Samples | None:
        """Steps whose memory all comes from the neighbour."""
        with self.at_neighbour():
            return self.trained(self._in_pool, num_samples) if self.is_timed else None

    def default(self, num_samples: int) -> Samples | None:
        """torch's own allocator."""
        with uninstalled():
            return self.trained(self._by_default, num_samples) if self.is_timed else None

    def check_homes(self, trainer: Trainer) -> None:
        found = {home(tensor) for tensor in [*trainer.model.parameters(), *trainer.moments()]}
        self.expect(found == {self.home if trainer is self._in_pool else None})

    def close(self) -> None:
        if self.is_timed:
            del self._in_pool, self._by_default
        super().close()
