"""One operation at a time, compiled: messages, put, get, flush and atomics, complete on return.

Each starts and waits politely. Where the wait returns AGAIN the operation stays in the port and
`resume` goes on with it. An operation that RANK_LOST or INTERRUPTED left behind is given up with its
port and its buffers: UCX may still write to both.
"""

from __future__ import annotations

import numpy as np

from ...kernels.compile import cpu_kernel, device_function
from ...kernels.ops import load_i64, store_i64
from ...kernels.status import AGAIN, BUSY, INTERRUPTED, OK, RANK_LOST
from . import calls
from .port import (
    ATOMIC_U32,
    ATOMIC_U64,
    CONTROL,
    ENDPOINT,
    PLAIN,
    POLITE,
    RECV,
    RECV_TAG,
    REPLY,
    REQUEST,
    STAGE,
    VALUE,
    WORKER,
)
from .waiting import GROUP, look, reap, wait_ended, wait_request

EVERY_BIT = -1  # tag mask, as int64

NO_RANK = -1

# STAGE: what is left to do once the request has ended
DONE, FLUSH_AFTER, RECEIVING = 0, 1, 2

tag_send, tag_recv, tag_recv_test = calls.tag_send, calls.tag_recv, calls.tag_recv_test
ucp_put, ucp_get, ucp_atomic = calls.put, calls.get, calls.atomic
endpoint_flush = calls.endpoint_flush


@device_function
def finish(port, rank):
    """Wait for the port's request, then do what its stage asks for."""
    code = OK
    while code == OK:
        request, stage = load_i64(port, REQUEST), load_i64(port, STAGE)
        if stage == RECEIVING and request > 0:
            code = wait_ended(port, request, rank, POLITE)
            if code == OK:  # freeing the request forgets what was received
                tag_recv_test(request, port + 8 * RECV_TAG)
                code = reap(port, request)
        else:
            code = wait_request(port, request, rank, POLITE)
        if code in (AGAIN, RANK_LOST, INTERRUPTED):
            return code
        store_i64(port, REQUEST, 0)
        store_i64(port, STAGE, DONE)
        if stage != FLUSH_AFTER:
            return code
        if code == OK:
            store_i64(port, REQUEST, endpoint_flush(load_i64(port, ENDPOINT), port + 8 * PLAIN))
    return code


@device_function
def may_start(port, rank):
    """OK where `rank` is not known to be dead and the port has no operation in progress, else why not."""
    if load_i64(port, REQUEST) > 0:
        return BUSY
    return look(load_i64(port, CONTROL), rank)


@device_function
def begin(port, rank, request, stage):
    """Put a started operation into the port and see it through."""
    store_i64(port, REQUEST, request)
    store_i64(port, STAGE, stage)
    return finish(port, rank)


@cpu_kernel("int64(int64, int64)", group=GROUP)
def resume(port, rank):
    """Go on with the operation that returned AGAIN."""
    return finish(port, rank)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64)", group=GROUP)
def send(port, rank, endpoint, src, num_bytes, tag):
    """Send a message to `rank`; OK when `src` may be used again."""
    code = may_start(port, rank)
    if code != OK:
        return code
    return begin(port, rank, tag_send(endpoint, src, num_bytes, tag, port + 8 * PLAIN), DONE)


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=GROUP)
def recv(port, rank, dst, max_bytes, tag):
    """Receive the message with `tag`, whole; its length is in the port. A longer one fails.

    A message that `rank` sent before it died is still received.
    """
    code = may_start(port, NO_RANK)
    if code != OK:
        return code
    worker = load_i64(port, WORKER)
    request = tag_recv(worker, dst, max_bytes, tag, EVERY_BIT, port + 8 * RECV)
    return begin(port, rank, request, RECEIVING)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def put(port, rank, endpoint, src, num_bytes, address, key):
    """Copy to `address` at `rank`; OK when the bytes are there."""
    code = may_start(port, rank)
    if code != OK:
        return code
    store_i64(port, ENDPOINT, endpoint)
    request = ucp_put(endpoint, src, num_bytes, address, key, port + 8 * PLAIN)
    return begin(port, rank, request, FLUSH_AFTER)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def get(port, rank, endpoint, dst, num_bytes, address, key):
    """Copy from `address` at `rank`; OK when the bytes are here."""
    code = may_start(port, rank)
    if code != OK:
        return code
    return begin(port, rank, ucp_get(endpoint, dst, num_bytes, address, key, port + 8 * PLAIN), DONE)


@cpu_kernel("int64(int64, int64, int64)", group=GROUP)
def flush(port, rank, endpoint):
    """OK when everything started on `endpoint` before is complete at `rank`."""
    code = may_start(port, rank)
    if code != OK:
        return code
    return begin(port, rank, endpoint_flush(endpoint, port + 8 * PLAIN), DONE)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def atomic(port, rank, endpoint, operation, value, desired, num_bytes, address, key):
    """A fetching atomic on a word of 4 or 8 bytes; what stood there is in the port's REPLY.

    `operation` is UCP_ATOMIC_OP_*; a compare-and-swap takes the expected word as `value`, and only it
    uses `desired`.
    """
    code = may_start(port, rank)
    if code != OK:
        return code
    store_i64(port, VALUE, value)
    store_i64(port, REPLY, desired)
    param = port + 8 * (ATOMIC_U64 if num_bytes == 8 else ATOMIC_U32)
    request = ucp_atomic(endpoint, np.int32(operation), port + 8 * VALUE, 1, address, key, param)
    return begin(port, rank, request, DONE)
