"""Words that a stream sets and waits for, where a kernel of one lane has to do it: the signals of group.py."""

from __future__ import annotations

from ..intrinsics.scalar import fence_acquire, load_relaxed_i64, store_release_i64
from ..intrinsics.system import lane_index, pause


def set_word(word, value):
    """Put `value` at `word`; release ordering: what the stream did before is seen by whoever finds it there."""
    if lane_index() == 0:
        store_release_i64(word, 0, value)


def await_word(word, value):
    """End once `word` is at least `value`; acquire ordering for what comes behind on the stream.

    By their difference, as the driver compares: of numbers 2**63 apart or more neither is the greater.
    """
    if lane_index() == 0:
        while load_relaxed_i64(word, 0) - value < 0:
            pause()
        fence_acquire()
