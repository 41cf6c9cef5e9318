"""The first start on a machine: compile what the cache lacks on all cores, before anyone loads it."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import pairwise

from umem import limits

from . import code_cache
from .compile import CORE, Lazy, check_jit, compiling, registered

MIN_MISSING = 8  # fewer compile in the time that it takes to fork for them
NUMBER_BYTES = 4  # of a kernel in the queue: a pipe, whose readers take whole numbers and never the same

_PR_SET_PDEATHSIG = 1


def precompile(prefix: str = "umem", groups: Iterable[str] = (CORE,), min_missing: int = MIN_MISSING) -> int:
    """Put every kernel of `groups` into the cache that is not there; how many those were.

    Fewer than `min_missing` are not compiled here: each compiles when it is first loaded.

    Forks a process a core, so this one must have a single thread; nothing is loaded here. A kernel that
    cannot be cached, or whose compilation fails, is left out: the process that loads it gets the error.
    """
    check_jit()
    missing = [lazy for lazy in registered(prefix, groups) if is_missing(lazy)]
    if len(missing) < max(min_missing, 1):
        return len(missing)
    sys.stderr.write(f"umem: compiling {len(missing)} kernels, once on this machine\n")
    num_processes = min(len(limits.usable_cores()), len(missing))
    # Neighbours share device functions, which each process compiles for itself: so each begins with a row of its own.
    bounds = [len(missing) * number // num_processes for number in range(num_processes + 1)]
    queues = [_queue(range(first, end)) for first, end in pairwise(bounds)]
    children = [_fork(missing, queues[number:] + queues[:number]) for number in range(num_processes)]
    for queue in queues:
        os.close(queue)
    for pid in children:
        os.waitpid(pid, 0)
    return len(missing)


def compile_here(group: str, what: str, prefix: str = "umem") -> None:
    """Put every kernel of `group` into the cache that is not there, in this process: it may have threads.

    One process of the machine does it, and says that `what` needs it; others wait here for it.
    """
    if not any(map(is_missing, registered(prefix, [group]))):
        return
    folder = code_cache.machine_folder()
    with compiling(), code_cache.turn(folder) if folder else nullcontext():
        missing = [lazy for lazy in registered(prefix, [group]) if is_missing(lazy)]
        if missing:
            sys.stderr.write(f"umem: compiling {len(missing)} kernels for {what}, once on this machine\n")
        for lazy in missing:
            lazy.load()


def _queue(numbers: range) -> int:
    """A pipe that holds `numbers`: each read takes the next one, and an empty read means that none is left."""
    assert len(numbers) * NUMBER_BYTES <= select.PIPE_BUF, "or the write would block"
    queue, filled = os.pipe()
    os.write(filled, b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in numbers))
    os.close(filled)
    return queue


def is_missing(lazy: Lazy) -> bool:
    """True where no process has put it into the cache yet, though it could be there."""
    return lazy.folder is not None and not code_cache.is_ready(lazy.folder)


def _fork(missing: list[Lazy], queues: Sequence[int]) -> int:
    """A child that compiles what it takes from the `queues` of numbers, one after the other; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.freeze()  # looking through all that was imported, time after time, takes a tenth of the time
    try:
        for queue in queues:
            while number := os.read(queue, NUMBER_BYTES):
                missing[int.from_bytes(number, "little")].load()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is: this process must not return into the parent's code
        traceback.print_exc()
    os._exit(code)
