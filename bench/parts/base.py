"""The base of the parts: memory of their own, the barrier before a sample, counted errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import numpy as np

from umem.errors import UmemError, WaitTimeout
from umem.kernels import status
from umem.space.array import Array
from umem.space.space import Space

from ..harness.stats import Samples

BLOCK_TIMEOUT_S = 20.0  # a block takes milliseconds: past this the peer has gone

_serial = count()  # every rank makes its parts in the same order, so the numbers agree


class SpacePart:
    """A part of a world of umem. Made, called and closed in every rank, in the same order."""

    def __init__(self, space: Space):
        self.space = space
        self.rank = space.rank
        self._arrays: list[Array] = []
        self._errors = 0

    @property
    def is_timed(self) -> bool:
        """Whether this rank has the stop-watch: rank 0."""
        return self.rank == 0

    def shared(self, num_bytes: int, home: int | str) -> Array:
        """`num_bytes` of zeroed memory at `home`, one for all ranks. Collective."""
        return self.keep(self.space.shared(self.next_name(), (num_bytes,), "uint8", home))

    @staticmethod
    def next_name() -> str:
        """A name for a shared array that no other has, the same in every rank."""
        return f"bench/{next(_serial)}"

    def keep(self, array: Array) -> Array:
        """Have `close` free a shared array; returns it."""
        self._arrays.append(array)
        return array

    def deadline_ns(self) -> int:
        """When a compiled loop that starts now must give up."""
        return time.monotonic_ns() + int(BLOCK_TIMEOUT_S * 1e9)

    def timed(
        self,
        num_samples: int,
        num_operations: int,
        run: Callable[[], int],
        before: Callable[[], None] | None = None,
    ) -> Samples | None:
        """Seconds per operation of `num_samples` runs of `num_operations` each, all ranks starting together.

        `run` returns a status; `before` makes ready, outside the timing. Every rank runs, rank 0 times.
        """
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            if before is not None:
                before()
            self.space.barrier()
            begin = time.perf_counter_ns()
            code = run()
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9 / num_operations
            check(code)
        return samples if self.is_timed else None

    def alone(self, num_samples: int, num_operations: int, run: Callable[[], int]) -> Samples | None:
        """`timed` for an operation that rank 0 does by itself while the others sleep."""
        return sampled(num_samples, num_operations, run) if self.is_timed else None

    def expect(self, is_right: bool) -> None:
        """Count an error in the data."""
        self._errors += not is_right

    def num_errors(self) -> int:
        """Errors since the last call."""
        found, self._errors = self._errors, 0
        return found

    def close(self) -> None:
        """Free the part's memory. Collective."""
        self.space.barrier()
        if self.rank == 0:
            for array in self._arrays:
                array.free()
        self._arrays = []


def sampled(num_samples: int, num_operations: int, run: Callable[[], int]) -> Samples:
    """Seconds per operation of `num_samples` runs of `num_operations` each; `run` returns a status."""
    samples = np.empty(num_samples)
    for sample in range(num_samples):
        begin = time.perf_counter_ns()
        code = run()
        samples[sample] = (time.perf_counter_ns() - begin) * 1e-9 / num_operations
        check(code)
    return samples


def check(code: int) -> None:
    """Raise for a status that is not OK: a loop past its deadline is a WaitTimeout."""
    if code == status.AGAIN:
        raise WaitTimeout(f"a block did not end within {BLOCK_TIMEOUT_S:.0f} s: the peer did not answer")
    if code != status.OK:
        raise UmemError(f"a block ended with status {status.name(code)}")
