"""Control pages of a small world in this process's memory, and threads or processes that play its ranks."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable

import numpy as np

from umem.kernels.page import control as layout

PAGE_LOG2 = 16
PAGE_WORDS = (1 << PAGE_LOG2) // 8
JOIN_TIMEOUT_S = 60
SPIN, SLEEP_AT_ONCE = 2000, 0


class Pages:
    """Shared memory with a control page a rank, and a page of words for the test."""

    def __init__(self, num_ranks: int, spin_rounds: int = SPIN):
        self.num_ranks = num_ranks
        self._memory = mmap.mmap(-1, (num_ranks + 1) << PAGE_LOG2)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.words = np.frombuffer(self._memory, np.int64).reshape(num_ranks + 1, PAGE_WORDS)
        for rank in range(num_ranks):
            page = self.words[rank]
            page[layout.CONTROL_RANK], page[layout.CONTROL_NUM_RANKS] = rank, num_ranks
            page[layout.CONTROL_META_BASE], page[layout.CONTROL_META_STRIDE_LOG2] = self.base, PAGE_LOG2
            page[layout.CONTROL_SPIN_ROUNDS] = spin_rounds

    def control(self, rank: int) -> int:
        """Address of the control page of `rank`."""
        return self.base + (rank << PAGE_LOG2)

    @property
    def scratch(self) -> int:
        """Address of zeroed words that belong to no rank."""
        return self.control(self.num_ranks)


def run_threads(num_threads: int, work: Callable[[int], object]) -> list[object]:
    """Results of work(0), work(1), ..., each in a thread; compiled kernels run side by side."""
    results: list[object] = [None] * num_threads

    def run(place: int) -> None:
        results[place] = work(place)

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads), f"still running after {JOIN_TIMEOUT_S} s"
    return results
