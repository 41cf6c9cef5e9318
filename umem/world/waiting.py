"""The one loop in which Python waits, and when it ends: after its time, in which no rank of the world compiled.

Compiling has no time limit and happens once on a machine. If it counted, a rank that waits for one that compiles would
fail with WaitTimeout in the first run and never again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import UmemError

Found = TypeVar("Found")
SLICE_S = 0.05  # longest stay away from Python: signals, deadlines and deaths are seen as often


class Deadline:
    """Passes `timeout_s` after its making, or after the world last compiled."""

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self._begin = time.monotonic()

    def has_passed(self) -> bool:
        """Whether the time is over."""
        now = time.monotonic()
        return now >= self._begin + self.timeout_s and now >= _last_compile_s() + self.timeout_s

    def left_s(self, at_least_s: float = 0.0, at_most_s: float = float("inf")) -> float:
        """How much of the time is left, if nobody compiles; never outside of the limits given."""
        return min(max(self._begin + self.timeout_s - time.monotonic(), at_least_s), at_most_s)


def nobody() -> None:
    """What `until` asks for the loss of a peer where it waits for none."""


def until(
    look: Callable[[], Found | None],
    deadline: Deadline,
    lost: Callable[[], UmemError | None] = nobody,
    grace_s: float = 0.0,
) -> Found | None:
    """What `look` has found: it is called again until that is not None, and a last time once the deadline has passed.

    `look` comes back within SLICE_S: it waits itself, in compiled code or on a descriptor. `lost` says why a peer
    cannot do its part any more. What it did before counts: `look` has `grace_s` more to find it, and one call at
    least; then the loss, as it is told by then, is raised. None where the time is over.
    """
    error: UmemError | None = None
    given_up_s = 0.0
    while True:
        is_last = deadline.has_passed()
        found = look()
        if found is not None:
            return found
        if error is not None:
            if time.monotonic() >= given_up_s:
                raise lost() or error  # which may say more by now: why a rank has left comes by another way
            continue
        error = lost()
        if error is not None:
            given_up_s = time.monotonic() + grace_s
        elif is_last:
            return None


def heed(last_compile_s: Callable[[], float]) -> None:
    """Have every deadline of this process ask `last_compile_s` when (time.monotonic) a rank last compiled."""
    global _last_compile_s
    _last_compile_s = last_compile_s


def _never() -> float:
    return float("-inf")


_last_compile_s: Callable[[], float] = _never
