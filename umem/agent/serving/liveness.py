"""Deaths of ranks: the agent turns pidfds and broken connections into words on its rank's control page.

Only the agent writes CONTROL_PEER_STATE and CONTROL_EPOCH, so a compiled wait that sees the epoch change finds the
dead rank in the table. A peer on this machine is watched by its pidfd (a send over shared memory to a dead
process succeeds, so nothing else tells); a peer on another one by the end of its connection.
"""

from __future__ import annotations

from numba.types import ExternalFunction, int64

from ...fabric.ucx.calls import am_send, poll
from ...fabric.ucx.channels import POLL_FD_HALVES, POLL_FD_WORDS, REVENTS
from ...kernels.build.compile import c_callback, device_function
from ...kernels.intrinsics.scalar import load_i64, load_u16, store_i32, store_i64, store_release_i64
from ...kernels.page.control import CONTROL_EPOCH, CONTROL_PEER_STATE, DEAD
from .. import layout

read = ExternalFunction("read", int64(int64, int64, int64))  # libc's, found by name when this is loaded
WORD = layout.WORD


@device_function
def publish_death(control, rank):
    """Mark `rank` as dead on this rank's control page, then move the epoch."""
    if load_i64(control, CONTROL_PEER_STATE + rank) != DEAD:
        store_release_i64(control, CONTROL_PEER_STATE + rank, DEAD)
        store_release_i64(control, CONTROL_EPOCH, load_i64(control, CONTROL_EPOCH) + 1)


@c_callback("void(int64, int64, int8)")
def note_lost_connection(watch, endpoint, code):
    """UCX tells that the connection of `watch` (see layout) is gone; the loop publishes it."""
    store_i64(watch, layout.WATCH_STATUS, code)
    state = load_i64(watch, layout.WATCH_STATE)
    store_i64(state, layout.AGENT_NUM_LOST, load_i64(state, layout.AGENT_NUM_LOST) + 1)


@device_function
def publish_lost_connections(state):
    """Publish the death of every rank whose connection broke since the last call."""
    rank = 0
    while rank < load_i64(state, layout.AGENT_NUM_RANKS):
        watch = load_i64(state, layout.AGENT_WATCHES) + rank * layout.WATCH_WORDS * WORD
        if load_i64(watch, layout.WATCH_STATUS) != 0:
            store_i64(watch, layout.WATCH_STATUS, 0)
            publish_death(load_i64(state, layout.AGENT_CONTROL), rank)
        rank += 1
    store_i64(state, layout.AGENT_NUM_LOST, 0)


@device_function
def greet(state):
    """Send a word to every agent that a connection watches: UCX makes a connection at its first use."""
    rank = 0
    while rank < load_i64(state, layout.AGENT_NUM_RANKS):
        watch = load_i64(state, layout.AGENT_WATCHES) + rank * layout.WATCH_WORDS * WORD
        endpoint = load_i64(watch, layout.WATCH_ENDPOINT)
        if endpoint != 0:
            parameters = load_i64(state, layout.AGENT_SEND_PARAM)
            header = watch + layout.WATCH_HELLO * WORD
            sent = am_send(endpoint, layout.AM_HELLO, header, WORD, 0, 0, parameters)
            store_i64(watch, layout.WATCH_SEND, sent)
        rank += 1


@device_function
def look(state, first, timeout_ms):
    """Poll the descriptors from `first` on, up to `timeout_ms`, and publish deaths; how many were ready."""
    descriptors = load_i64(state, layout.AGENT_POLL_FDS)
    num_descriptors = load_i64(state, layout.AGENT_NUM_POLL_FDS)
    num_ready = poll(descriptors + first * layout.POLLFD_BYTES, num_descriptors - first, timeout_ms)
    if num_ready <= 0:
        return 0
    local = load_i64(state, layout.AGENT_POLL_LOCAL)
    if load_u16(descriptors, local * POLL_FD_HALVES + REVENTS) != 0:
        read(load_i64(state, layout.AGENT_LOCAL_FD), state + layout.AGENT_POLL_SCRATCH * WORD, WORD)
    index = local + 1
    while index < num_descriptors:
        if load_u16(descriptors, index * POLL_FD_HALVES + REVENTS) != 0:
            rank = load_i64(load_i64(state, layout.AGENT_POLL_RANKS), index)
            publish_death(load_i64(state, layout.AGENT_CONTROL), rank)
            store_i32(descriptors, index * POLL_FD_WORDS, -1)  # poll ignores it from now on
        index += 1
    return num_ready
