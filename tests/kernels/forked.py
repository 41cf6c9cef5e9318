"""Ranks as forked processes over shared memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import time
import traceback
from collections.abc import Callable

MEET_S = 30.0


class SharedWords:
    """int64 words that forked children share."""

    def __init__(self, count: int):
        self._map = mmap.mmap(-1, 8 * count)
        self.words = (ctypes.c_int64 * count).from_buffer(self._map)
        self.address = ctypes.addressof(self.words)


def start_rank(rank: int, work: Callable[[int], int | None]) -> int:
    """Fork a process that does `work(rank)` and ends with what it returns, or 1; its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work(rank) or 0
        except Exception:  # noqa: BLE001 - the child's one report; its exit code fails the test
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def end_of(pid: int, timeout_s: float | None = None) -> int:
    """Wait for a child; its exit code, or minus the signal that killed it. TimeoutError if it does not end."""
    if timeout_s is not None:
        process = os.pidfd_open(pid)
        has_ended = select.select([process], [], [], timeout_s)[0]
        os.close(process)
        if not has_ended:
            raise TimeoutError(f"process {pid} has not ended within {timeout_s:g} s")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_ranks(num_ranks: int, work: Callable[[int], int | None]) -> None:
    """`work` in a process a rank; every one of them must end well."""
    children = [start_rank(rank, work) for rank in range(num_ranks)]
    assert [end_of(pid) for pid in children] == [0] * num_ranks


def meet(ready: SharedWords, rank: int, num_ranks: int) -> None:
    """Go on when all ranks are here, so that what follows happens at once."""
    ready.words[rank] = 1
    deadline = time.monotonic() + MEET_S
    while not all(ready.words[:num_ranks]):
        assert time.monotonic() < deadline, "a rank did not come"
        os.sched_yield()
