"""umem's heap against glibc's: the same random replacements of live blocks, of the same sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from umem.errors import UmemError
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.heap import entries
from umem.kernels.intrinsics.scalar import load_i64, store_i64
from umem.kernels.status import AGAIN, OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from .base import SpacePart

_HOME = 0  # both ranks allocate from its memory
ALIGN = 64
NUM_LIVE = 1024  # powers of two, as malloc_churn wants them
NUM_SIZES = 256
_MIN_BYTES, MAX_BYTES = 64, 4096
_NUM_PAIRS = 5000  # a sample
SEED_WORD = 88172645463325252  # of xorshift64, as in malloc_churn


# Compiled calls, not inlined ones: inlined they are 3 ns faster and take 25 s to compile.
heap_alloc, heap_free = entries.alloc, entries.free


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def heap_churn(control, arena, magazine, live, num_live, sizes, num_sizes, num_pairs):
    """malloc_churn of bench/harness/hardware.c over umem's heap: free a random live block, allocate another.

    Returns the first status that is an error, else OK.
    """
    random = SEED_WORD
    number = 0
    while number < num_pairs:
        random ^= random << 13
        random ^= (random >> 7) & ((1 << 57) - 1)
        random ^= random << 17
        slot = (random >> 8) & (num_live - 1)
        address = load_i64(live, slot)
        if address != 0:
            code = heap_free(control, arena, magazine, address)
            if code != OK:
                return code
        address = heap_alloc(control, arena, magazine, load_i64(sizes, number & (num_sizes - 1)), ALIGN)
        if address <= AGAIN:
            return -1 if address == AGAIN else address
        store_i64(live, slot, address)
        number += 1
    return OK


class Churn(SpacePart):
    """Rank 0, or ranks 0 and 1 at the same time, on rank 0's memory; glibc in as many processes."""

    def __init__(self, space: Space, contended: int, seed: int):
        super().__init__(space)
        self.contended = bool(contended)
        spread = np.random.default_rng(seed).uniform(np.log(_MIN_BYTES), np.log(MAX_BYTES), NUM_SIZES)
        self.sizes = np.exp(spread).astype(np.int64)
        self.live = np.zeros(NUM_LIVE, np.int64)
        self.live_of_libc = np.zeros(NUM_LIVE, np.int64)
        space.heap.free(space.heap.alloc(_MIN_BYTES, home=_HOME))  # opens this thread's magazine
        site = space.heap.sites.at_home(_HOME)
        self.site = (site.metadata, site.magazines[threading.get_ident()])

    def umem(self, num_samples: int) -> Samples | None:
        """Pairs of alloc and free on umem's heap."""
        samples = self._run(num_samples, self._churn_heap)
        found = np.sort(self.live[self.live != 0])
        self.expect(bool((found % ALIGN == 0).all() and (np.diff(found) >= _MIN_BYTES).all()))
        return samples

    def glibc(self, num_samples: int) -> Samples | None:
        """Pairs of malloc and free."""
        return self._run(num_samples, self._churn_libc)

    def _run(self, num_samples: int, churn: Callable[[], int]) -> Samples | None:
        if self.contended:
            return self.timed(num_samples, _NUM_PAIRS, churn if self.rank < 2 else lambda: OK)
        return self.alone(num_samples, _NUM_PAIRS, churn)

    def _churn_heap(self) -> int:
        words = (self.live.ctypes.data, NUM_LIVE, self.sizes.ctypes.data, NUM_SIZES, _NUM_PAIRS)
        return int(heap_churn(self.space.control, *self.site, *words))

    def _churn_libc(self) -> int:
        words = (self.live_of_libc.ctypes.data, NUM_LIVE, self.sizes.ctypes.data, NUM_SIZES, _NUM_PAIRS)
        if hardware.load().malloc_churn(*words):
            raise UmemError("malloc failed")
        return OK

    def close(self) -> None:
        for address in self.live[self.live != 0]:
            self.space.heap.free(int(address))
        if self.live_of_libc.any():
            hardware.load().malloc_clear(self.live_of_libc.ctypes.data, NUM_LIVE)
        super().close()
