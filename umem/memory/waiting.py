"""Deadlines, signals and liveness for waits that run in compiled code.

A compiled wait returns to Python every 50 ms (`AGAIN`), so that Ctrl-C is seen, deadlines hold, and a
dead peer becomes an error. `complete` calls it again until it ends, for barriers and for requests to agents;
`unless_again` makes any other of them a step of the one loop (umem/world/waiting.py).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from ..errors import Interrupted, RankLost, UmemError, WaitTimeout
from ..kernels import status
from ..world.waiting import Deadline, until
from .control_page import ControlPage

LEAVE_S = 1.0  # compiled waits look up every 50 ms; the rest is a long copy
LOOK_S = 0.001
PACKAGE = "umem."
# A rank's own program runs inside of these; the agent's thread is ended by itself.
STARTERS = ("umem.world.", "umem.cli.", "umem.agent.serving.agent")


class Lock(Protocol):
    """A lock of the threading module."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Whether it is the caller's now."""

    def release(self) -> None:
        """Let others have it."""


def complete(
    step: Callable[[], int],
    page: ControlPage,
    timeout_s: float,
    what: str,
    needs: Iterable[int] = (),
) -> None:
    """Call `step` until it returns OK.

    `step` must be resumable: after AGAIN it goes on where it was. `needs` are the ranks without which
    the wait cannot end. What a rank did before it died or left counts: after news of it the step gets one
    more look before the wait is given up. Raises RankLost for the first rank of `needs` that is lost,
    WaitTimeout after `timeout_s`, Interrupted when the space is closing, and whatever a signal handler raises.
    """

    def look() -> int | None:
        code = step()
        if code == status.INTERRUPTED:
            raise Interrupted(f"{what}: the space is closing")
        if code not in (status.OK, status.AGAIN, status.EPOCH_CHANGED):
            raise UmemError(f"{what}: kernel returned status {code}")
        return code if code == status.OK else None

    if until(look, Deadline(timeout_s), lambda: loss(page, needs, what)) is None:
        raise WaitTimeout(
            f"{what}: no end after {timeout_s:g} s; raise UMEM_TIMEOUT_S where that is expected"
        )


def unless_again(code: int) -> int | None:
    """What a step of `until` finds in the status of a compiled wait: nothing yet where it is AGAIN."""
    return None if code == status.AGAIN else code


def loss(page: ControlPage, needs: Iterable[int], what: str) -> RankLost | None:
    """The error for the first rank of `needs` whose death is confirmed, or that an error made leave, if one is."""
    lost = page.lost_ranks()
    return next((RankLost(rank, what, lost[rank]) for rank in needs if rank in lost), None) if lost else None


def leave_calls(timeout_s: float = LEAVE_S) -> bool:
    """Wait until no other thread of this process is in a call of umem's; whether they have all left in time.

    The caller has told those threads to end, and takes away the memory that they use after this.
    """
    own = threading.get_ident()

    def look() -> bool | None:
        if not any(is_in_call(frame) for thread, frame in sys._current_frames().items() if thread != own):
            return True
        time.sleep(LOOK_S)  # nothing tells of a thread that comes back
        return None

    return until(look, Deadline(timeout_s)) is not None


def is_in_call(frame: FrameType | None) -> bool:
    """Whether the thread with this innermost frame is in a call of this package; False where umem only started it."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(PACKAGE) and not name.startswith(STARTERS):
            return True
        frame = frame.f_back
    return False


@contextmanager
def one_at_a_time(lock: Lock, timeout_s: float, what: str) -> Iterator[None]:
    """Have the threads of a rank make their collective calls one after the other. Raises WaitTimeout."""
    if not lock.acquire(timeout=timeout_s):
        raise WaitTimeout(
            f"{what}: another thread of this rank has been in a collective call for {timeout_s:g} s"
        )
    try:
        yield
    finally:
        lock.release()
