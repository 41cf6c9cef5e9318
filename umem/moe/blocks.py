"""Memory of the space for rows that arrive: a block is used again once nothing holds a view of it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..units import align_up

if TYPE_CHECKING:
    from ..space.space import Space

GRAIN_BYTES = 64 << 10  # of a block: so that one of about the same size can take its place


@dataclass(slots=True)
class _Block:
    address: int
    num_bytes: int
    used: weakref.ref[Any]  # the array that all views of it hang on


class Blocks:
    """Blocks of this rank's memory. One thread at a time."""

    def __init__(self, space: Space):
        self._space = space
        self._blocks: list[_Block] = []

    def take(self, num_bytes: int) -> tuple[int, np.ndarray]:
        """(address, bytes) of memory that is the caller's until it drops every view. Raises OutOfMemory."""
        idle = [block for block in self._blocks if block.used() is None]
        fitting = [block for block in idle if block.num_bytes >= num_bytes]
        if fitting:
            block = min(fitting, key=lambda block: block.num_bytes)
            whole = self._space.view(block.address, block.num_bytes)
            block.used = weakref.ref(whole)
            return block.address, whole
        self.free_idle()
        size = align_up(max(num_bytes, 1), GRAIN_BYTES)
        address = self._space.alloc(size)
        whole = self._space.view(address, size)
        self._blocks.append(_Block(address, size, weakref.ref(whole)))
        return address, whole

    def free_idle(self) -> None:
        """Give back what nothing holds."""
        for block in [block for block in self._blocks if block.used() is None]:
            self._blocks.remove(block)
            self._space.free(block.address)
