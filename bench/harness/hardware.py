"""This machine's limits, measured by the C of hardware.c through ctypes.

The file is compiled once for this machine by its C compiler (a second or two) into the cache folder;
where there is none, `load` raises Waived. Every function takes int64 numbers, addresses among them,
releases the GIL, and is described in hardware.c. The caller times them, interleaved with the sides they
are compared to; only the two round trips, which need two threads, are timed here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from umem import limits
from umem.errors import Waived
from umem.files import cached

_SOURCE = Path(__file__).with_name("hardware.c")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_COMPILE_TIMEOUT_S = 60
MAX_POLLS = 1 << 30  # about a second of polling: a peer that never answers ends the measurement

# Name of each function in hardware.c and how many int64 arguments it takes.
NUM_ARGUMENTS = {
    "vector_bytes": 0,
    "copy_libc": 3,
    "copy_stream": 3,
    "add_f32": 4,
    "add_f32_stream": 4,
    "sum_words": 2,
    "chase": 3,
    "gather_rows": 6,
    "gather_sum_f32": 7,
    "line_ping_pong": 4,
    "fetch_add": 2,
    "compare_swap": 2,
    "event_ping_pong": 4,
    "malloc_churn": 5,
    "malloc_clear": 2,
}


class Limits:
    """The functions of hardware.c as attributes: `hardware.copy_stream(dst, src, num_bytes)`."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library
        for name, num_arguments in NUM_ARGUMENTS.items():
            function = library[name]
            function.argtypes = [ctypes.c_int64] * num_arguments
            function.restype = ctypes.c_int64
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Callable[..., int]:
        raise AttributeError(f"hardware.c has no function {name!r}")


@cache
def load() -> Limits:
    """Compile hardware.c if the cache folder has no build for this machine, and load it.

    Raises Waived with the reason where there is no C compiler or it fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Waived("no C compiler (cc, gcc or clang) on this machine to measure its limits with")
    folder = cached.folder(f"limits-{_machine_key(compiler)}", ready="limits.so")
    if folder is None:
        raise Waived(f"there is no folder for the compiled {_SOURCE.name}: {cached.WAY_OUT}")
    library = folder / "limits.so"
    if not library.exists():
        _compile(compiler, library)
    return Limits(ctypes.CDLL(str(library)))


def line_round_trip_ns(num_rounds: int = 20_000) -> float:
    """Nanoseconds for a store to reach another core and its answer to come back, on one cache line.

    Two threads on the first two usable cores; Waived where there is only one.
    """
    limits = load()
    words = np.zeros(32, np.int64)
    line = words.ctypes.data + -words.ctypes.data % 128
    return _round_trip_ns(lambda side: limits.line_ping_pong(line, side, num_rounds, MAX_POLLS), num_rounds)


def event_round_trip_ns(num_rounds: int = 2_000) -> float:
    """Nanoseconds for two threads to wake each other once through two eventfds."""
    limits = load()
    ask, answer = os.eventfd(0), os.eventfd(0)
    try:
        fds = ((answer, ask), (ask, answer))
        return _round_trip_ns(lambda side: limits.event_ping_pong(*fds[side], side, num_rounds), num_rounds)
    finally:
        os.close(ask)
        os.close(answer)


def _round_trip_ns(run_side: Callable[[int], int], num_rounds: int) -> float:
    """Run side 1 in a thread and side 0 here, each on a core of its own; time per round."""
    cores = limits.usable_cores()
    if len(cores) < 2:
        raise Waived("a round trip between cores needs two, and this process may use one")
    started = threading.Event()

    def other_side() -> None:
        os.sched_setaffinity(0, {cores[1]})  # 0 is the calling thread, so this ends with it
        started.set()
        run_side(1)

    thread = threading.Thread(target=other_side, name="umem-limits", daemon=True)
    os.sched_setaffinity(0, {cores[0]})
    try:
        thread.start()
        started.wait(timeout=10)
        begin = time.perf_counter_ns()
        completed = run_side(0)
        elapsed_ns = time.perf_counter_ns() - begin
    finally:
        os.sched_setaffinity(0, cores)
    thread.join(timeout=10)
    if completed != num_rounds or thread.is_alive():
        raise Waived(f"the other core answered {completed} of {num_rounds} round trips: it was not running")
    return elapsed_ns / num_rounds


def _machine_key(compiler: str) -> str:
    """Hash of all that a build depends on: the source, the flags, the compiler, the processor."""
    cpuinfo = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    features = [line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features", "model name"))]
    parts = [_SOURCE.read_text(), *FLAGS, os.path.realpath(compiler), platform.machine(), *features]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, library: Path) -> None:
    """Build into a temporary file and rename: two processes that build at once both end with a whole file."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [compiler, *FLAGS, "-o", str(built), str(_SOURCE)]
        try:
            result = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise Waived(f"{compiler} did not compile hardware.c within {_COMPILE_TIMEOUT_S} s") from None
        if result.returncode != 0:
            raise Waived(f"{compiler} cannot compile hardware.c: {result.stderr.strip()[-400:]}")
        os.replace(built, library)
