"""When a wait ends: after its time, in which no rank of the world compiled.

Compiling has no time limit and happens once on a machine. If it counted, a rank that waits for one that compiles would
fail with WaitTimeout in the first run and never again.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """Passes `timeout_s` after its making, or after the world last compiled."""

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self._begin = time.monotonic()

    def has_passed(self) -> bool:
        """Whether the time is over."""
        now = time.monotonic()
        return now >= self._begin + self.timeout_s and now >= _last_compile_s() + self.timeout_s


def heed(last_compile_s: Callable[[], float]) -> None:
    """Have every deadline of this process ask `last_compile_s` when (time.monotonic) a rank last compiled."""
    global _last_compile_s
    _last_compile_s = last_compile_s


def _never() -> float:
    return float("-inf")


_last_compile_s: Callable[[], float] = _never
