"""A scalar load from Python, of uncached memory and of a copy, beside the bare entry into compiled code."""

from __future__ import annotations

from umem.bench.parts import speed_loops
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from .base import SpacePart

_BATCH = 2000


class Load(SpacePart):
    """Rank 0 loads words of the peer's from Python; beside it a compiled function that does nothing."""

    def __init__(self, space: Space):
        super().__init__(space)
        home = min(1, space.num_ranks - 1)
        self.word = self.shared(8, home=home).address
        cached = space.shared(self.next_name(), (1,), "int64", home=home, cache="back")
        self.cached_word = self.keep(cached).address
        if self.is_timed:
            space.store(self.word, 42, "int64")
            space.store(self.cached_word, 42, "int64")

    def load_store(self, num_samples: int) -> Samples | None:
        """space.load of the uncached word."""
        return self._loads(num_samples, self.word)

    def cached_load(self, num_samples: int) -> Samples | None:
        """space.load of the cached word, of which rank 0 has a copy."""
        return self._loads(num_samples, self.cached_word)

    def _loads(self, num_samples: int, word: int) -> Samples | None:
        load = self.space.load

        def batch() -> int:
            for _ in range(_BATCH):
                value = load(word, "int64")
            self.expect(value == 42)
            return OK

        return self.alone(num_samples, _BATCH, batch)

    def empty_call(self, num_samples: int) -> Samples | None:
        """An empty compiled function with the arguments of the compiled load."""
        call, control, word = speed_loops.enter_and_return.compiled, self.space.control, self.word

        def batch() -> int:
            for _ in range(_BATCH):
                call(control, word)
            return OK

        return self.alone(num_samples, _BATCH, batch)
