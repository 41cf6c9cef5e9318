"""One operation at a time, compiled: messages, put, get, flush and atomics, complete on return.

Each call is one turn with the channels (turns.py): it starts and waits politely. Where the wait returns AGAIN the
operation stays in the port and `resume` goes on with it. An operation that RANK_LOST or INTERRUPTED left behind is
given up with its port and its buffers: UCX may still write to both.
"""

from __future__ import annotations

import numpy as np

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.intrinsics.scalar import load_i64, store_i64
from ...kernels.status import AGAIN, BUSY, INTERRUPTED, NOT_FOUND, OK, RANK_LOST
from . import calls
from .abi import UCS_INPROGRESS
from .channels import HAS_NEWS
from .port import (
    ATOMIC_U32,
    ATOMIC_U64,
    CHANNELS,
    CONTROL,
    ENDPOINT,
    MESSAGE,
    PLAIN,
    POLITE,
    RECV,
    RECV_BYTES,
    RECV_TAG,
    REPLY,
    REQUEST,
    STAGE,
    TAG,
    VALUE,
    WORKER,
)
from .turns import GROUP, end_turn, take_turn
from .waiting import EVERY_BIT, TO_CLAIM, look, reap, wait_ended, wait_request

NO_RANK = -1

# STAGE: what is left to do once the request has ended
DONE, FLUSH_AFTER, RECEIVING = 0, 1, 2

tag_send, tag_recv, tag_recv_test = calls.tag_send, calls.tag_recv, calls.tag_recv_test
ucp_put, ucp_get, ucp_atomic = calls.put, calls.get, calls.atomic
endpoint_flush, worker_progress = calls.endpoint_flush, calls.worker_progress
tag_probe, tag_message_recv = calls.tag_probe, calls.tag_message_recv
request_status, request_free, request_cancel = calls.request_status, calls.request_free, calls.request_cancel


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
    """Take a turn: OK where `rank` is not known to be dead and the port is free, else why not."""
    code = take_turn(load_i64(port, CHANNELS))
    if code != OK:
        return code
    if load_i64(port, REQUEST) > 0:
        return BUSY
    return look(load_i64(port, CONTROL), rank)


@device_function
def begin(port, rank, request, stage):
    """Put a started operation into the port and see it through."""
    store_i64(port, REQUEST, request)
    store_i64(port, STAGE, stage)
    return finish(port, rank)


@device_function
def end(port, code):
    """End the turn that `may_start` took; `code`."""
    end_turn(load_i64(port, CHANNELS))
    return code


@cpu_kernel("int64(int64, int64)", group=GROUP)
def resume(port, rank):
    """Go on with the operation that returned AGAIN."""
    code = take_turn(load_i64(port, CHANNELS))
    if code == OK:
        code = finish(port, rank)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64)", group=GROUP)
def send(port, rank, endpoint, src, num_bytes, tag):
    """Send a message to `rank`; OK when `src` may be used again."""
    code = may_start(port, rank)
    if code == OK:
        code = begin(port, rank, tag_send(endpoint, src, num_bytes, tag, port + 8 * PLAIN), DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=GROUP)
def recv(port, rank, dst, max_bytes, tag):
    """Receive the message with `tag`, whole; its length is in the port. A longer one fails.

    A message that `rank` sent before it died is still received.
    """
    code = may_start(port, NO_RANK)
    if code == OK:
        worker = load_i64(port, WORKER)
        request = tag_recv(worker, dst, max_bytes, tag, EVERY_BIT, port + 8 * RECV)
        code = begin(port, rank, request, RECEIVING)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=GROUP)
def claim(port, rank, tag):
    """Wait for a message with `tag` and take it out of the queue: OK, and the port has its handle and its length.

    Nothing is left under way by any other code: call it again. A message that `rank` sent before it died counts.
    """
    code = may_start(port, NO_RANK)
    if code == OK:
        store_i64(port, TAG, tag)
        code = wait_ended(port, TO_CLAIM, rank, POLITE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=GROUP)
def receive_claimed(port, rank, dst):
    """Receive the message that the port has claimed, whole, to `dst`."""
    code = may_start(port, NO_RANK)
    if code == OK:
        num_bytes = load_i64(port, RECV_BYTES)
        message = load_i64(port, MESSAGE)
        request = tag_message_recv(load_i64(port, WORKER), dst, num_bytes, message, port + 8 * RECV)
        code = begin(port, rank, request, RECEIVING)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=GROUP)
def peek(port, tag, mask):
    """Look for a message whose bits of `mask` are those of `tag`: NOT_FOUND, or OK, and the port has tag and length."""
    code = may_start(port, NO_RANK)
    if code == OK:
        worker = load_i64(port, WORKER)
        if worker_progress(worker) > 0:
            store_i64(load_i64(port, CHANNELS), HAS_NEWS, 1)
        if tag_probe(worker, tag, mask, np.int32(0), port + 8 * RECV_TAG) == 0:
            code = NOT_FOUND
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def put(port, rank, endpoint, src, num_bytes, address, key):
    """Copy to `address` at `rank`; OK when the bytes are there."""
    code = may_start(port, rank)
    if code == OK:
        store_i64(port, ENDPOINT, endpoint)
        request = ucp_put(endpoint, src, num_bytes, address, key, port + 8 * PLAIN)
        code = begin(port, rank, request, FLUSH_AFTER)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def get(port, rank, endpoint, dst, num_bytes, address, key):
    """Copy from `address` at `rank`; OK when the bytes are here."""
    code = may_start(port, rank)
    if code == OK:
        request = ucp_get(endpoint, dst, num_bytes, address, key, port + 8 * PLAIN)
        code = begin(port, rank, request, DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=GROUP)
def flush(port, rank, endpoint):
    """OK when everything started on `endpoint` before is complete at `rank`."""
    code = may_start(port, rank)
    if code == OK:
        code = begin(port, rank, endpoint_flush(endpoint, port + 8 * PLAIN), DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group=GROUP)
def atomic(port, rank, endpoint, operation, value, desired, num_bytes, address, key):
    """A fetching atomic on a word of 4 or 8 bytes; what stood there is in the port's REPLY.

    `operation` is UCP_ATOMIC_OP_*; a compare-and-swap takes the expected word as `value`, and only it
    uses `desired`.
    """
    code = may_start(port, rank)
    if code == OK:
        store_i64(port, VALUE, value)
        store_i64(port, REPLY, desired)
        param = port + 8 * (ATOMIC_U64 if num_bytes == 8 else ATOMIC_U32)
        request = ucp_atomic(endpoint, np.int32(operation), port + 8 * VALUE, 1, address, key, param)
        code = begin(port, rank, request, DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64)", group=GROUP)
def abandon(port, is_cancelled):
    """Give up the operation in the port: OK where it has ended, else AGAIN; it is cancelled first if `is_cancelled`."""
    code = take_turn(load_i64(port, CHANNELS))
    request = load_i64(port, REQUEST)
    if code == OK and request > 0:
        if is_cancelled != 0:
            request_cancel(load_i64(port, WORKER), request)
        if request_status(request) == UCS_INPROGRESS:
            code = AGAIN
        else:
            request_free(request)
            store_i64(port, REQUEST, 0)
    return end(port, code)
