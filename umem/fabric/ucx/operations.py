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
from .channels import CHANNELS_HAS_NEWS
from .port import (
    POLITE,
    PORT_ATOMIC_U32,
    PORT_ATOMIC_U64,
    PORT_CHANNELS,
    PORT_CONTROL,
    PORT_ENDPOINT,
    PORT_MESSAGE,
    PORT_PLAIN,
    PORT_RECV,
    PORT_RECV_BYTES,
    PORT_RECV_TAG,
    PORT_REPLY,
    PORT_REQUEST,
    PORT_STAGE,
    PORT_TAG,
    PORT_VALUE,
    PORT_WORKER,
)
from .turns import UCX_KERNELS, end_turn, take_turn
from .waiting import EVERY_BIT, TO_CLAIM, look, reap, wait_ended, wait_request

NO_RANK = -1

# PORT_STAGE: what is left to do once the request has ended
_DONE, _FLUSH_AFTER, _RECEIVING = 0, 1, 2

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
        request, stage = load_i64(port, PORT_REQUEST), load_i64(port, PORT_STAGE)
        if stage == _RECEIVING and request > 0:
            code = wait_ended(port, request, rank, POLITE)
            if code == OK:  # freeing the request forgets what was received
                tag_recv_test(request, port + 8 * PORT_RECV_TAG)
                code = reap(port, request)
        else:
            code = wait_request(port, request, rank, POLITE)
        if code in (AGAIN, RANK_LOST, INTERRUPTED):
            return code
        store_i64(port, PORT_REQUEST, 0)
        store_i64(port, PORT_STAGE, _DONE)
        if stage != _FLUSH_AFTER:
            return code
        if code == OK:
            store_i64(
                port, PORT_REQUEST, endpoint_flush(load_i64(port, PORT_ENDPOINT), port + 8 * PORT_PLAIN)
            )
    return code


@device_function
def may_start(port, rank):
    """Take a turn: OK where `rank` is not known to be dead and the port is free, else why not."""
    code = take_turn(load_i64(port, PORT_CHANNELS))
    if code != OK:
        return code
    if load_i64(port, PORT_REQUEST) > 0:
        return BUSY
    return look(load_i64(port, PORT_CONTROL), rank)


@device_function
def begin(port, rank, request, stage):
    """Put a started operation into the port and see it through."""
    store_i64(port, PORT_REQUEST, request)
    store_i64(port, PORT_STAGE, stage)
    return finish(port, rank)


@device_function
def end(port, code):
    """End the turn that `may_start` took; `code`."""
    end_turn(load_i64(port, PORT_CHANNELS))
    return code


@cpu_kernel("int64(int64, int64)", group=UCX_KERNELS)
def resume(port, rank):
    """Go on with the operation that returned AGAIN."""
    code = take_turn(load_i64(port, PORT_CHANNELS))
    if code == OK:
        code = finish(port, rank)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def send(port, rank, endpoint, src, num_bytes, tag):
    """Send a message to `rank`; OK when `src` may be used again."""
    code = may_start(port, rank)
    if code == OK:
        code = begin(port, rank, tag_send(endpoint, src, num_bytes, tag, port + 8 * PORT_PLAIN), _DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def recv(port, rank, dst, max_bytes, tag):
    """Receive the message with `tag`, whole; its length is in the port. A longer one fails.

    A message that `rank` sent before it died is still received.
    """
    code = may_start(port, NO_RANK)
    if code == OK:
        worker = load_i64(port, PORT_WORKER)
        request = tag_recv(worker, dst, max_bytes, tag, EVERY_BIT, port + 8 * PORT_RECV)
        code = begin(port, rank, request, _RECEIVING)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=UCX_KERNELS)
def claim(port, rank, tag):
    """Wait for a message with `tag` and take it out of the queue: OK, and the port has its handle and its length.

    Nothing is left under way by any other code: call it again. A message that `rank` sent before it died counts.
    """
    code = may_start(port, NO_RANK)
    if code == OK:
        store_i64(port, PORT_TAG, tag)
        code = wait_ended(port, TO_CLAIM, rank, POLITE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=UCX_KERNELS)
def receive_claimed(port, rank, dst):
    """Receive the message that the port has claimed, whole, to `dst`."""
    code = may_start(port, NO_RANK)
    if code == OK:
        num_bytes = load_i64(port, PORT_RECV_BYTES)
        message = load_i64(port, PORT_MESSAGE)
        request = tag_message_recv(load_i64(port, PORT_WORKER), dst, num_bytes, message, port + 8 * PORT_RECV)
        code = begin(port, rank, request, _RECEIVING)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=UCX_KERNELS)
def peek(port, tag, mask):
    """Look for a message whose bits of `mask` are those of `tag`: NOT_FOUND, or OK, and the port has tag and length."""
    code = may_start(port, NO_RANK)
    if code == OK:
        worker = load_i64(port, PORT_WORKER)
        if worker_progress(worker) > 0:
            store_i64(load_i64(port, PORT_CHANNELS), CHANNELS_HAS_NEWS, 1)
        if tag_probe(worker, tag, mask, np.int32(0), port + 8 * PORT_RECV_TAG) == 0:
            code = NOT_FOUND
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def put(port, rank, endpoint, src, num_bytes, address, key):
    """Copy to `address` at `rank`; OK when the bytes are there."""
    code = may_start(port, rank)
    if code == OK:
        store_i64(port, PORT_ENDPOINT, endpoint)
        request = ucp_put(endpoint, src, num_bytes, address, key, port + 8 * PORT_PLAIN)
        code = begin(port, rank, request, _FLUSH_AFTER)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def get(port, rank, endpoint, dst, num_bytes, address, key):
    """Copy from `address` at `rank`; OK when the bytes are here."""
    code = may_start(port, rank)
    if code == OK:
        request = ucp_get(endpoint, dst, num_bytes, address, key, port + 8 * PORT_PLAIN)
        code = begin(port, rank, request, _DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64)", group=UCX_KERNELS)
def flush(port, rank, endpoint):
    """OK when everything started on `endpoint` before is complete at `rank`."""
    code = may_start(port, rank)
    if code == OK:
        code = begin(port, rank, endpoint_flush(endpoint, port + 8 * PORT_PLAIN), _DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def atomic(port, rank, endpoint, operation, value, desired, num_bytes, address, key):
    """A fetching atomic on a word of 4 or 8 bytes; what stood there is in the port's PORT_REPLY.

    `operation` is UCP_ATOMIC_OP_*; a compare-and-swap takes the expected word as `value`, and only it
    uses `desired`.
    """
    code = may_start(port, rank)
    if code == OK:
        store_i64(port, PORT_VALUE, value)
        store_i64(port, PORT_REPLY, desired)
        param = port + 8 * (PORT_ATOMIC_U64 if num_bytes == 8 else PORT_ATOMIC_U32)
        request = ucp_atomic(endpoint, np.int32(operation), port + 8 * PORT_VALUE, 1, address, key, param)
        code = begin(port, rank, request, _DONE)
    return end(port, code)


@cpu_kernel("int64(int64, int64)", group=UCX_KERNELS)
def abandon(port, is_cancelled):
    """Give up the operation in the port: OK where it has ended, else AGAIN; it is cancelled first if `is_cancelled`."""
    code = take_turn(load_i64(port, PORT_CHANNELS))
    request = load_i64(port, PORT_REQUEST)
    if code == OK and request > 0:
        if is_cancelled != 0:
            request_cancel(load_i64(port, PORT_WORKER), request)
        if request_status(request) == UCS_INPROGRESS:
            code = AGAIN
        else:
            request_free(request)
            store_i64(port, PORT_REQUEST, 0)
    return end(port, code)
