"""Copies from the peer's memory: through buffers larger than every cache, or one block that stays in a cache."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from umem.bench.parts import speed_loops
from umem.kernels.data.copy import default_stream_bytes
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from .base import SpacePart

_HOME = 1  # rank whose memory is read
CHECKED_WORDS = 4096
MIN_SAMPLE_BYTES = 1 << 20  # a sample of small copies is a batch of them


class Copy(SpacePart):
    """Rank 0 copies `num_bytes` from the peer's memory to its own, `rotation_bytes` of each in turn."""

    def __init__(self, space: Space, num_bytes: int, rotation_bytes: int, seed: int):
        super().__init__(space)
        self.num_bytes = num_bytes
        self.num_buffers = max(1, rotation_bytes // num_bytes)
        self.batch = max(1, MIN_SAMPLE_BYTES // num_bytes)
        total = self.num_buffers * num_bytes
        self.src = self.shared(total, home=_HOME)
        self.next = 0
        self.random = np.random.default_rng(seed)
        if self.rank == _HOME:
            self.src.numpy().view(np.int64)[:] = np.arange(total // 8)
        if self.is_timed:
            room = np.ones(total + 64, np.uint8)
            self.dst = room[-room.ctypes.data % 64 :][:total]
        space.barrier()

    def load_store(self, num_samples: int) -> Samples | None:
        """umem's copy kernel."""
        return self._run(num_samples, speed_loops.copy_each.compiled, default_stream_bytes())

    def libc(self, num_samples: int) -> Samples | None:
        """memcpy over the same memory."""
        return self._run(num_samples, speed_loops.copy_each_by.compiled, address_of("copy_libc"))

    def c_stream(self, num_samples: int) -> Samples | None:
        """A C loop with nontemporal stores over the same memory; `num_bytes` is a multiple of 256."""
        return self._run(num_samples, speed_loops.copy_each_by.compiled, address_of("copy_stream"))

    def _run(self, num_samples: int, copies: Callable[..., None], how: int) -> Samples | None:
        if not self.is_timed:
            return None
        begin = self.next
        memory = (self.dst.ctypes.data, self.src.address, self.num_bytes, self.num_buffers)

        def batch() -> int:
            copies(*memory, self.next, self.batch, how)
            self.next = (self.next + self.batch) % self.num_buffers
            return OK

        samples = self.alone(num_samples, self.batch, batch)
        self._check(begin)
        return samples

    def _check(self, buffer: int) -> None:
        """Look at words of a buffer that this block has copied, and spoil them for the next block."""
        words = self.dst.view(np.int64)
        first, count = buffer * self.num_bytes // 8, self.num_bytes // 8
        chosen = first + self.random.integers(0, count, min(CHECKED_WORDS, count))
        self.expect(bool((words[chosen] == chosen).all()))
        words[chosen] = -1


def address_of(name: str) -> int:
    """Machine address of a function of hardware.c."""
    return int(ctypes.cast(getattr(hardware.load(), name), ctypes.c_void_p).value or 0)
