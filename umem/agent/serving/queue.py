"""Rings of slot numbers: the agent's queues.

Every slot of an agent is in exactly one of four rings (free, ready, pending, sending) or in the hands
of the loop, so no ring can overflow: each has room for all slots. One thread uses them, the agent's;
UCX's callbacks run inside its progress call.
"""

from __future__ import annotations

from ...kernels.build.compile import device_function
from ...kernels.intrinsics.scalar import load_i64, store_i64
from ..layout import RING_HEAD, RING_ITEMS, RING_MASK, RING_TAIL


@device_function
def ring_length(ring):
    """Slots in the ring."""
    return load_i64(ring, RING_TAIL) - load_i64(ring, RING_HEAD)


@device_function
def push(ring, slot):
    """Add `slot` at the back."""
    tail = load_i64(ring, RING_TAIL)
    store_i64(load_i64(ring, RING_ITEMS), tail & load_i64(ring, RING_MASK), slot)
    store_i64(ring, RING_TAIL, tail + 1)


@device_function
def pop_first(ring):
    """Take the slot that waits longest; the ring must not be empty."""
    head = load_i64(ring, RING_HEAD)
    store_i64(ring, RING_HEAD, head + 1)
    return load_i64(load_i64(ring, RING_ITEMS), head & load_i64(ring, RING_MASK))


@device_function
def pop_last(ring):
    """Take the slot that came last, whose memory is warm; the ring must not be empty."""
    tail = load_i64(ring, RING_TAIL) - 1
    store_i64(ring, RING_TAIL, tail)
    return load_i64(load_i64(ring, RING_ITEMS), tail & load_i64(ring, RING_MASK))


def ring_words(num_slots: int) -> int:
    """Words that the items of a ring for `num_slots` slots take: a power of two."""
    return 1 << (num_slots - 1).bit_length()
