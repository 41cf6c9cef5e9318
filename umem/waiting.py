"""Deadlines, signals and liveness for waits that run in compiled code.

A compiled wait returns to Python every 50 ms (`AGAIN`), so that Ctrl-C is seen, deadlines hold, and a
dead peer becomes an error. Here is the one loop that calls it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .control_page import ControlPage
from .errors import Interrupted, RankLost, UmemError, WaitTimeout
from .kernels import status


def complete(
    step: Callable[[], int],
    page: ControlPage,
    timeout_s: float,
    what: str,
    needs: Iterable[int] = (),
) -> None:
    """Call `step` until it returns OK.

    `step` must be resumable: after AGAIN it goes on where it was. `needs` are the ranks without which
    the wait cannot end. What a rank did before it died counts: after news of a death the step gets one
    more look before the wait is given up. Raises RankLost for the first rank of `needs` that is dead,
    WaitTimeout after `timeout_s`, Interrupted when the space is closing, and whatever a signal handler raises.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        code = step()
        if code == status.EPOCH_CHANGED:
            code = step()
        if code == status.OK:
            return
        if code == status.INTERRUPTED:
            raise Interrupted(f"{what}: the space is closing")
        if code not in (status.AGAIN, status.EPOCH_CHANGED):
            raise UmemError(f"{what}: kernel returned status {code}")
        raise_if_lost(page, needs, what)
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"{what}: no end after {timeout_s:g} s; raise UMEM_TIMEOUT_S where that is expected"
            )


def raise_if_lost(page: ControlPage, needs: Iterable[int], what: str) -> None:
    """Raise RankLost for the first rank of `needs` whose death is confirmed."""
    dead = page.dead_ranks()
    if dead:
        for rank in needs:
            if rank in dead:
                raise RankLost(rank, what)
