"""A team whose thresholds a caller sets, for `umem bench --tune`."""

from __future__ import annotations

from typing import Any

import numpy as np

from umem.collectives.mapped import words_at
from umem.kernels.collective import layout
from umem.space.space import Space

from ..harness.stats import Samples
from .collective import Mapped


class Tuned(Mapped):
    """An operation with one of the team's words set to a value while it runs."""

    def with_word(self, num_samples: int, word: int, value: int) -> Samples:
        """Operations, in every rank; all of them set the same."""
        words = words_at(self.team.address, layout.TEAM_WORDS)
        before = int(words[word])
        words[word] = value
        try:
            return self.load_store(num_samples)
        finally:
            words[word] = before


class TunedPrivate(Tuned):
    """The same with buffers that the other ranks do not map, which are staged."""

    def __init__(self, space: Space, **arguments: Any):
        self.kept: dict[int, np.ndarray] = {}
        super().__init__(space, **arguments)

    def allocate(self, num_bytes: int) -> int:
        buffer = np.zeros(num_bytes, np.uint8)
        self.kept[buffer.ctypes.data] = buffer
        return int(buffer.ctypes.data)

    def give_back(self, buffer: int) -> None:
        del self.kept[buffer]
