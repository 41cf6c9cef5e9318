"""Handlers that the tests register, compiled as a user's are."""

from __future__ import annotations

from umem.agent import Operation, layout
from umem.agent.serving.handlers import HANDLER, argument
from umem.kernels import status
from umem.kernels.build.compile import c_callback
from umem.kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64, store_release_i64
from umem.kernels.intrinsics.system import copy_bytes, now_ns

DOUBLE = Operation.USER
WAIT_FOR_WORD = Operation.USER + 1
REFUSE = Operation.USER + 2
SPIN = Operation.USER + 3
FILL = Operation.USER + 4
MISSING = Operation.USER + 99


@c_callback(HANDLER)
def double(request, reply, context):
    """Every word of the payload and of the arguments, doubled; the value is the context."""
    payload, num_bytes = (
        load_i64(request, layout.REQUEST_PAYLOAD),
        load_i64(request, layout.REQUEST_PAYLOAD_BYTES),
    )
    room = load_i64(reply, layout.REPLY_PAYLOAD)
    index = 0
    while index < num_bytes // 8:
        store_i64(room, index, 2 * load_i64(payload, index))
        index += 1
    copy_bytes(room + 8 * index, payload + 8 * index, num_bytes - 8 * index)
    count = 0
    while count < load_i64(request, layout.REQUEST_NUM_WORDS):
        store_i64(room + num_bytes, count, 2 * argument(request, count))
        count += 1
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bytes + 8 * count)
    store_i64(reply, layout.REPLY_VALUE, context)
    return status.OK


@c_callback(HANDLER)
def wait_for_word(request, reply, context):
    """PENDING until the word at the first argument reaches the second; the value counts its calls."""
    calls = load_i64(request, layout.REQUEST_SCRATCH) + 1
    store_i64(request, layout.REQUEST_SCRATCH, calls)
    store_i64(reply, layout.REPLY_VALUE, calls)
    if load_acquire_i64(argument(request, 0), 0) < argument(request, 1):
        return status.PENDING
    return status.OK


@c_callback(HANDLER)
def refuse(request, reply, context):
    """Refuse with the status in the first argument; what it leaves in the reply must not arrive."""
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, 100)
    return argument(request, 0)


@c_callback(HANDLER)
def spin(request, reply, context):
    """Keep the agent's thread for as many nanoseconds as the first argument says; count at the second."""
    counter = argument(request, 1)
    store_release_i64(counter, 0, load_i64(counter, 0) + 1)
    until = now_ns() + argument(request, 0)
    while now_ns() < until:
        pass
    return status.OK


@c_callback(HANDLER)
def fill(request, reply, context):
    """A reply of as many bytes as the first argument says, each word its index times the second."""
    room = load_i64(reply, layout.REPLY_PAYLOAD)
    num_bytes = argument(request, 0)
    index = 0
    while index < (num_bytes + 7) // 8:
        store_i64(room, index, index * argument(request, 1))
        index += 1
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bytes)
    return status.OK


HANDLERS = {DOUBLE: double, WAIT_FOR_WORD: wait_for_word, REFUSE: refuse, SPIN: spin, FILL: fill}
