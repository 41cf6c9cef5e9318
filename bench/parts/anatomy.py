"""The five steps of the staged path, each timed, beside one pass of loads and stores over the same slice."""

from __future__ import annotations

import time

import numpy as np

from umem.errors import FabricMissing, Waived
from umem.fabric.staged import STEPS, Staged
from umem.fabric.ucx.library import INSTALL_UCX
from umem.kernels.data.copy import cpu_copy_2d, default_stream_bytes
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from .base import SpacePart

_OWNER, READER = 1, 0
STRIDE_FACTOR = 2  # the slice is every other row of a matrix
SENDER_STEPS = STEPS[:2]


class Slice(SpacePart):
    """`num_rows` rows of `row_bytes`, every other row of a matrix in the owner's memory, brought to the reader's."""

    def __init__(self, space: Space, num_rows: int, row_bytes: int):
        super().__init__(space)
        self.num_rows, self.row_bytes = num_rows, row_bytes
        self.stride = STRIDE_FACTOR * row_bytes
        self.matrix = self.shared(num_rows * self.stride, home=_OWNER)
        self.target = np.zeros(num_rows * row_bytes, np.uint8)
        self.expected = (np.arange(num_rows * self.stride) % 251).astype(np.uint8)
        if self.rank == _OWNER:
            self.matrix.write(self.expected)
        space.barrier()
        self._staged: Staged | None = None
        self._steps: dict[str, Samples] = {}

    def load_store(self, num_samples: int) -> Samples | None:
        """The reader copies the rows from the owner's memory to their target, once."""
        if not self.is_timed:
            return None
        stream_bytes = default_stream_bytes()
        width = (self.num_rows, self.row_bytes)

        def once() -> int:
            src = self.matrix.address
            cpu_copy_2d(self.target.ctypes.data, self.row_bytes, src, self.stride, *width, stream_bytes)
            return OK

        samples = self.alone(num_samples, 1, once)
        self._check()
        return samples

    def staged(self, num_samples: int) -> Samples | None:
        """Bring the rows over by the five steps; a sample is from the owner's first to the reader's last."""
        path = self._path()
        rows = (self.num_rows, self.row_bytes)
        steps = {step: np.zeros(num_samples) for step in STEPS}
        samples = np.zeros(num_samples)
        for sample in range(num_samples):
            self.space.barrier()
            begin_ns = time.perf_counter_ns()
            if self.rank == _OWNER:
                path.send(READER, self.space.pointer(self.matrix.address), *rows, self.stride)
            elif self.rank == READER:
                path.recv(_OWNER, self.target.ctypes.data, *rows, self.row_bytes)
            samples[sample] = (time.perf_counter_ns() - begin_ns) * 1e-9
            for step in STEPS:
                steps[step][sample] = path.step_ns[step] * 1e-9
        self._steps = steps
        if not self.is_timed:
            return None
        self._check()
        return samples

    def step(self, num_samples: int, name: str) -> Samples | None:
        """Seconds of step `name` in the last `staged` block, from the rank that does the step."""
        self._path()  # raises where no `staged` block could run
        return self._steps.get(name) if self.rank == (_OWNER if name in SENDER_STEPS else READER) else None

    def _path(self) -> Staged:
        if self._staged is None:
            if self.space.fabric is None:
                raise FabricMissing(f"the staged path sends messages. Fix: {INSTALL_UCX}")
            if self.space.num_ranks < 2:
                raise Waived("the staged path needs two ranks")
            world = self.space.world
            shares_clock = world.shares_pids(1 - min(self.rank, 1))
            self._staged = Staged(self.space.fabric, self.num_rows * self.row_bytes, shares_clock)
        return self._staged

    def _check(self) -> None:
        rows = self.expected.reshape(self.num_rows, self.stride)[:, : self.row_bytes]
        self.expect(bool((self.target.reshape(self.num_rows, self.row_bytes) == rows).all()))
        self.target[:] = 0
