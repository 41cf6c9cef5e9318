"""Memory at a chosen alignment between guard bytes, for kernels that take addresses."""

from __future__ import annotations

import numpy as np

ALIGNMENT = 64
GUARD_BYTES = 128
GUARD = 0xA5


class Guarded:
    """`bytes`: `num_bytes` zeros that start `offset` bytes after a 64-byte boundary, guards on both sides."""

    def __init__(self, num_bytes: int, offset: int = 0):
        self._room = np.full(num_bytes + 2 * GUARD_BYTES + 2 * ALIGNMENT, GUARD, np.uint8)
        start = -self._room.ctypes.data % ALIGNMENT + GUARD_BYTES + offset
        self.bytes = self._room[start : start + num_bytes]
        self.bytes[:] = 0
        self._outside = np.ones(self._room.size, bool)
        self._outside[start : start + num_bytes] = False
        self.address = int(self._room.ctypes.data) + start

    def of(self, dtype: object) -> np.ndarray:
        """The bytes as elements."""
        return self.bytes.view(dtype)

    def fill(self, seed: int) -> Guarded:
        """Random bytes; returns itself."""
        self.bytes[:] = np.random.default_rng(seed).integers(0, 256, self.bytes.size)
        return self

    def assert_guards_stand(self) -> None:
        """Nothing wrote outside."""
        assert (self._room[self._outside] == GUARD).all()
