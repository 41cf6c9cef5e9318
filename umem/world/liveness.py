"""Which processes are alive: pidfds, and processes that do not outlive their parent.

A pid names another process as soon as its owner is reaped; a pidfd never does, and it becomes readable
at the moment of death (4-8 ms after SIGKILL with a sleeping watcher).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Iterable
from pathlib import Path

from ..errors import RankLost

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason.

    The setting is lost when credentials change, so it comes after entering a user namespace. A parent
    that died before the call is noticed: the process then ends at once.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def stay_inspectable() -> None:
    """Let this user's other processes read /proc/PID of this one again after it changed credentials."""
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def machine_id() -> str:
    """A name that is equal for processes that can use each other's pids: a running kernel and a pid namespace of it."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{os.stat('/proc/self/ns/pid').st_ino}"


def open_pidfd(pid: int, rank: int) -> int:
    """A descriptor that becomes readable when process `pid`, which runs `rank`, has died.

    Raises RankLost where it is dead already. The caller closes it.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise RankLost(rank, f"process {pid} has ended") from None


def has_ended(pidfd: int) -> bool:
    """Whether the process behind `pidfd` has died (reaped or not)."""
    return bool(ended(((0, pidfd),)))


def ended(pidfds: Iterable[tuple[int, int]], timeout_s: float = 0.0) -> list[int]:
    """The ranks among the pairs (rank, pidfd) whose processes have died, now or within `timeout_s`."""
    poll = select.poll()
    rank_of: dict[int, int] = {}
    for rank, pidfd in pidfds:
        rank_of[pidfd] = rank
        poll.register(pidfd, select.POLLIN)
    return [rank_of[pidfd] for pidfd, _ in poll.poll(timeout_s * 1000)]


def describe_exit(exit_code: int) -> str:
    """An exit code in words: 128 + n is death by signal n, as shells count."""
    if exit_code > 128:
        try:
            return f"was killed by {signal.Signals(exit_code - 128).name}"
        except ValueError:
            pass  # not a signal: a program's own large exit code
    return f"ended with exit code {exit_code}"
