"""Probes: requests of a home's agent to the agent of a rank that holds a copy, which changes its own cache.

    PROBE_INVALIDATE    a shared copy goes; a claim that waits for its line is marked DROPPED
    PROBE_TAKE_SHARED   the owner's copy comes with the answer, and stays shared
    PROBE_TAKE_INVALID  the owner's copy comes with the answer, and goes

The holder's agent is to its rank's cache what a thread of it is: it changes tags by compare-and-swap. Where a store
is under way, or a granted line not yet installed, the probe waits (PENDING), and others go on.
"""

from __future__ import annotations

from ...agent.layout import REPLY_PAYLOAD, REPLY_PAYLOAD_BYTES
from ...agent.serving.handlers import HANDLER, argument
from ...kernels import c_callback, device_function, status
from ...kernels.coherent import layout as words
from ...kernels.coherent.cache import (
    NO_SLOT,
    copy_address,
    count,
    geometry_of,
    held_pin,
    in_state,
    is_free_to_store,
    search,
    set_state,
    tag_address,
)
from ...kernels.data.shared_copy import copy_line
from ...kernels.intrinsics.scalar import compare_swap_i64, load_i64, store_i64
from ...memory.address import BASE
from .prober import FLIT_KERNELS

# second argument of a probe; the first is the line's address, the third log2 of its bytes
PROBE_INVALIDATE, PROBE_TAKE_SHARED, PROBE_TAKE_INVALID = 0, 1, 2


@device_function
def drop(geometry, line):
    """Make this rank lose its shared copy of a line, also one that is on its way: always done at once."""
    while True:
        slot, tag = search(geometry, line)
        state = tag & words.TAG_STATE_MASK
        if slot == NO_SLOT or state not in (words.SHARED_COPY, words.FILLING):
            return
        after = words.INVALID if state == words.SHARED_COPY else words.DROPPED
        if compare_swap_i64(tag_address(geometry, slot), 0, tag, in_state(tag, after)) == tag:
            return


@device_function
def give_up(geometry, line, line_log2, dst, state_after):
    """Copy this rank's owned copy of a line to `dst`: OK; PENDING while it is in use; NOT_FOUND.

    A copy that the rank itself is giving back (TAKEN) is copied and left alone: its home will find that the rank
    owns the line no more.
    """
    while True:
        slot, tag = search(geometry, line)
        state = tag & words.TAG_STATE_MASK
        if slot == NO_SLOT or state == words.SHARED_COPY:
            return status.NOT_FOUND
        if state == words.TAKEN:
            copy_line(dst, copy_address(geometry, slot, line_log2), 1 << line_log2)
            return status.OK
        if not is_free_to_store(state):
            return status.PENDING
        if compare_swap_i64(tag_address(geometry, slot), 0, tag, in_state(tag, words.TAKEN)) == tag:
            if held_pin(geometry, slot) != 0:
                set_state(geometry, slot, words.MODIFIED)
                return status.PENDING
            copy_line(dst, copy_address(geometry, slot, line_log2), 1 << line_log2)
            set_state(geometry, slot, state_after)
            return status.OK


@c_callback(HANDLER, group=FLIT_KERNELS)
def serve_probe(request, reply, context):
    """Arguments: the line's address, the kind of probe, log2 of the line's bytes. The reply to TAKE: the line."""
    cache = load_i64(context, 0)
    address, kind, line_log2 = argument(request, 0), argument(request, 1), argument(request, 2)
    geometry = geometry_of(cache, line_log2)
    line = (address - BASE) >> line_log2
    if kind == PROBE_INVALIDATE:
        drop(geometry, line)
        count(cache, words.NUM_PROBES, 1)
        return status.OK
    state_after = words.SHARED_COPY if kind == PROBE_TAKE_SHARED else words.INVALID
    code = give_up(geometry, line, line_log2, load_i64(reply, REPLY_PAYLOAD), state_after)
    if code == status.OK:
        store_i64(reply, REPLY_PAYLOAD_BYTES, 1 << line_log2)
        count(cache, words.NUM_PROBES, 1)
    return code
