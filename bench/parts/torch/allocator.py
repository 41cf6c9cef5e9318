"""torch's allocator: raw, from compiled code, and through torch.empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from umem.errors import Waived
from umem.kernels.status import OK
from umem.memory.address import Kind
from umem.space.space import Space
from umem.torch import home
from umem.torch.c10 import C10

from ...harness.stats import Samples
from ..base import sampled
from ..replay_loops import DATA_WORDS, checked_replay, replay
from .base import TorchPart, uninstalled
from .trace import of_step

_NUM_PAIRS = 10_000  # of one raw sample, at least
MIN_FLOATS, MAX_FLOATS, NUM_SHAPES = 16, 16_384, 250  # of torch.empty: 64 B to 64 KiB
NUM_ROUNDS = 8  # of all shapes, in a sample
ANYWHERE = (1, 1 << 62)  # addresses


class Replay:
    """A trace of allocations, with room for its live blocks."""

    def __init__(self, model: str, seed: int):
        self.trace = of_step(model, seed)
        self.num_rounds = -(-2 * _NUM_PAIRS // len(self.trace))
        self.num_pairs = self.num_rounds * len(self.trace) // 2
        self._live, self._sizes = np.zeros((2, int(self.trace[:, 0].max()) + 1), np.int64)
        self._data = np.zeros(DATA_WORDS, np.int64)

    def samples(self, allocator: int, num_samples: int) -> Samples:
        """Seconds per allocation and free through the c10::Allocator at this address."""
        words = self._live.ctypes.data, self._data.ctypes.data

        def run() -> int:
            replay(allocator, self.trace.ctypes.data, len(self.trace), *words, self.num_rounds)
            return OK

        return sampled(num_samples, self.num_pairs, run)

    def num_errors(self, allocator: int, low: int, high: int) -> int:
        """The number of blocks outside of [low, high), misaligned, or overlapping, in one replay."""
        words = self._live.ctypes.data, self._sizes.ctypes.data, self._data.ctypes.data
        return checked_replay(allocator, self.trace.ctypes.data, len(self.trace), *words, low, high)


class Raw(TorchPart):
    """Rank 0 replays the allocations of a training step."""

    def __init__(self, space: Space, model: str, seed: int):
        super().__init__(space)
        self.c10 = C10()
        if self.is_timed:
            self.replay = Replay(model, seed)
        begin = space.segments.map.slot_address(self.home, Kind.DEVICE)
        self.memory_of_neighbour = begin, begin + space.segments.map.slot_bytes(Kind.DEVICE)

    def pool(self, num_samples: int) -> Samples | None:
        """In the neighbour's memory."""
        with self.at_neighbour():
            return self._samples(num_samples, self.c10.allocator(), *self.memory_of_neighbour)

    def inactive(self, num_samples: int) -> Samples | None:
        """Outside of use_pool."""
        return self._samples(num_samples, self.c10.allocator(), *ANYWHERE)

    def default(self, num_samples: int) -> Samples | None:
        """torch's own allocator."""
        with uninstalled() as own:
            return self._samples(num_samples, own, *ANYWHERE)

    def _samples(self, num_samples: int, allocator: int, low: int, high: int) -> Samples | None:
        if not self.is_timed:
            return None
        samples = self.replay.samples(allocator, num_samples)
        self._errors += self.replay.num_errors(allocator, low, high)
        return samples


class RawAlone:
    """The same in a process without a space, over the malloc that the process was started with."""

    def __init__(self, context: None, model: str, seed: int, library: str):
        torch.set_num_threads(1)
        if library and library not in Path("/proc/self/maps").read_text():
            raise Waived(f"{library} was not loaded by LD_PRELOAD")
        self.allocator, self.replay, self._errors = C10().allocator(), Replay(model, seed), 0

    def block(self, num_samples: int) -> Samples:
        """torch's own allocator."""
        samples = self.replay.samples(self.allocator, num_samples)
        self._errors += self.replay.num_errors(self.allocator, *ANYWHERE)
        return samples

    def num_errors(self) -> int:
        """Errors since the last call."""
        found, self._errors = self._errors, 0
        return found

    def close(self) -> None:
        """Nothing is held: a trace frees all it allocates."""


class Empty(TorchPart):
    """Rank 0 calls torch.empty."""

    def __init__(self, space: Space, seed: int):
        super().__init__(space)
        spread = np.random.default_rng(seed).uniform(np.log(MIN_FLOATS), np.log(MAX_FLOATS), NUM_SHAPES)
        self.shapes = [(int(length),) for length in np.exp(spread)]

    def pool(self, num_samples: int) -> Samples | None:
        """In the neighbour's memory."""
        with self.at_neighbour():
            return self._samples(num_samples, self.home)

    def inactive(self, num_samples: int) -> Samples | None:
        """Outside of use_pool."""
        return self._samples(num_samples, None)

    def default(self, num_samples: int) -> Samples | None:
        """torch's own allocator."""
        with uninstalled():
            return self._samples(num_samples, None)

    def _samples(self, num_samples: int, expected_home: int | None) -> Samples | None:
        made = [torch.empty(shape) for shape in self.shapes] if self.is_timed else []
        self.expect({home(tensor) for tensor in made} <= {expected_home})
        del made
        return self.alone(num_samples, NUM_ROUNDS * NUM_SHAPES, self._run)

    def _run(self) -> int:
        empty, shapes = torch.empty, self.shapes
        for _ in range(NUM_ROUNDS):
            for shape in shapes:
                empty(shape)
        return OK
