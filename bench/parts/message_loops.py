"""UCX in compiled loops, as ucx_perftest drives it: polling, one clock reading an operation.

All take a port (umem.fabric.ucx.port) and return a status. They are the measured path of `message` and
`rma`: no Python between two operations.
"""

from __future__ import annotations

from numba.core import types

from umem.fabric.ucx import calls
from umem.fabric.ucx.port import (
    POLLING,
    PORT_ATOMIC_U64,
    PORT_CONTROL,
    PORT_PLAIN,
    PORT_REPLY,
    PORT_VALUE,
    PORT_WORKER,
)
from umem.fabric.ucx.waiting import UCX_KERNELS, wait_request
from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64
from umem.kernels.intrinsics.system import cycles, now_ns, yield_cpu
from umem.kernels.page.control import CONTROL_SPIN_ROUNDS
from umem.kernels.status import AGAIN, OK

EVERY_BIT = -1  # tag mask
POLLS_PER_CLOCK = 64

tag_send, tag_recv = calls.tag_send, calls.tag_recv
ucp_put, ucp_get, ucp_atomic = calls.put, calls.get, calls.atomic
endpoint_flush = calls.endpoint_flush
worker_progress = calls.worker_progress


@device_function
def finish(port, request, rank, deadline_ns):
    """Wait for `request`, polling, slice after slice until the deadline."""
    code = wait_request(port, request, rank, POLLING)
    while code == AGAIN and now_ns() < deadline_ns:
        code = wait_request(port, request, rank, POLLING)
    return code


@device_function
def send(port, endpoint, rank, src, num_bytes, tag, deadline_ns):
    """Send one message and wait until `src` may be used again."""
    return finish(port, tag_send(endpoint, src, num_bytes, tag, port + 8 * PORT_PLAIN), rank, deadline_ns)


@device_function
def receive(port, rank, dst, num_bytes, tag, deadline_ns):
    """Receive one message."""
    worker = load_i64(port, PORT_WORKER)
    request = tag_recv(worker, dst, num_bytes, tag, EVERY_BIT, port + 8 * PORT_PLAIN)
    return finish(port, request, rank, deadline_ns)


_PING_PONG = "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_PING_PONG, group=UCX_KERNELS)
def ping_pong(
    port, endpoint, rank, src, dst, num_bytes, out_tag, in_tag, side, num_rounds, times, deadline_ns
):
    """One side of `num_rounds` round trips of a message; `times` takes the cycles of each."""
    lap = 0
    begin = cycles()
    while lap < num_rounds:
        if side == 0:
            code = send(port, endpoint, rank, src, num_bytes, out_tag, deadline_ns)
            if code == OK:
                code = receive(port, rank, dst, num_bytes, in_tag, deadline_ns)
        else:
            code = receive(port, rank, dst, num_bytes, in_tag, deadline_ns)
            if code == OK:
                code = send(port, endpoint, rank, src, num_bytes, out_tag, deadline_ns)
        if code != OK:
            return code
        end = cycles()
        store_i64(times, lap, end - begin)
        begin = end
        lap += 1
    return OK


@cpu_kernel(_PING_PONG, group=UCX_KERNELS)
def stream(
    port,
    endpoint,
    rank,
    buffer,
    requests,
    num_bytes,
    out_tag,
    in_tag,
    side,
    num_messages,
    window,
    deadline_ns,
):
    """`num_messages` from side 0 to side 1, `window` in flight at each side; then one message back.

    `requests` holds `window` words. Every message uses the same buffer, as in ucx_perftest's tag_bw.
    """
    worker = load_i64(port, PORT_WORKER)
    slot = 0
    while slot < window:
        store_i64(requests, slot, 0)
        slot += 1
    number = 0
    while number < num_messages + window:  # the last turns only wait
        slot = number % window
        code = finish(port, load_i64(requests, slot), rank, deadline_ns)
        if code != OK:
            return code
        request = 0
        if number < num_messages:
            if side == 0:
                request = tag_send(endpoint, buffer, num_bytes, out_tag, port + 8 * PORT_PLAIN)
            else:
                request = tag_recv(worker, buffer, num_bytes, in_tag, EVERY_BIT, port + 8 * PORT_PLAIN)
        store_i64(requests, slot, request)
        number += 1
    if side == 0:
        return receive(port, rank, requests, 8, in_tag, deadline_ns)
    return send(port, endpoint, rank, requests, 8, out_tag, deadline_ns)


@cpu_kernel(
    "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS
)
def access(port, endpoint, rank, is_put, buffer, num_bytes, address, key, num_operations, times, deadline_ns):
    """`num_operations` puts (each complete at the home) or gets; `times` takes the cycles of each."""
    done = 0
    begin = cycles()
    while done < num_operations:
        if is_put != 0:
            code = finish(
                port,
                ucp_put(endpoint, buffer, num_bytes, address, key, port + 8 * PORT_PLAIN),
                rank,
                deadline_ns,
            )
            if code == OK:
                code = finish(port, endpoint_flush(endpoint, port + 8 * PORT_PLAIN), rank, deadline_ns)
        else:
            code = finish(
                port,
                ucp_get(endpoint, buffer, num_bytes, address, key, port + 8 * PORT_PLAIN),
                rank,
                deadline_ns,
            )
        if code != OK:
            return code
        end = cycles()
        store_i64(times, done, end - begin)
        begin = end
        done += 1
    return OK


@device_function
def await_word(port, word, value, deadline_ns):
    """Progress the worker until `value` stands in the word; AGAIN after the deadline. Gives its core away in time."""
    spin_rounds = load_i64(load_i64(port, PORT_CONTROL), CONTROL_SPIN_ROUNDS)
    polls = 0
    while load_acquire_i64(word, 0) != value:
        worker_progress(load_i64(port, PORT_WORKER))
        polls += 1
        if polls % POLLS_PER_CLOCK == 0 and now_ns() >= deadline_ns:
            return AGAIN
        if polls > spin_rounds:
            yield_cpu()
    return OK


_PUT_PING_PONG = (
    "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"
)


@cpu_kernel(_PUT_PING_PONG, group=UCX_KERNELS)
def put_ping_pong(
    port, endpoint, rank, src, inbox, num_bytes, address, key, side, first, num_rounds, times, deadline_ns
):
    """One side of `num_rounds` round trips of puts into each other's inbox; `times` takes the cycles of each.

    The last word of `src` counts the rounds, from `first` on; the waiting side polls the last word of its `inbox`. No
    put is flushed: that it has come is seen at its end, as in ucx_perftest's put_lat.
    """
    last = num_bytes - 8
    lap = 0
    begin = cycles()
    while lap < num_rounds:
        number = first + lap
        code = OK
        if side != 0:
            code = await_word(port, inbox + last, number, deadline_ns)
        if code == OK:
            store_i64(src + last, 0, number)
            request = ucp_put(endpoint, src, num_bytes, address, key, port + 8 * PORT_PLAIN)
            code = finish(port, request, rank, deadline_ns)
        if code == OK and side == 0:
            code = await_word(port, inbox + last, number, deadline_ns)
        if code != OK:
            return code
        end = cycles()
        store_i64(times, lap, end - begin)
        begin = end
        lap += 1
    return OK


_ATOMIC = "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_ATOMIC, group=UCX_KERNELS)
def atomic(
    port,
    endpoint,
    rank,
    operation,
    first,
    operand,
    operand_step,
    address,
    key,
    num_operations,
    times,
    replies,
    deadline_ns,
):
    """`num_operations` fetching atomics, each of which makes of an 8-byte word the next number, from `first` on.

    The operand is `operand`, then `operand_step` more each time; a compare-and-swap writes the next number.
    `times` takes the cycles of each, `replies` the old values.
    """
    done = 0
    begin = cycles()
    while done < num_operations:
        store_i64(port, PORT_VALUE, operand + done * operand_step)
        store_i64(port, PORT_REPLY, first + done + 1)
        request = ucp_atomic(
            endpoint,
            types.int32(operation),
            port + 8 * PORT_VALUE,
            1,
            address,
            key,
            port + 8 * PORT_ATOMIC_U64,
        )
        code = finish(port, request, rank, deadline_ns)
        if code != OK:
            return code
        store_i64(replies, done, load_i64(port, PORT_REPLY))
        end = cycles()
        store_i64(times, done, end - begin)
        begin = end
        done += 1
    return OK


@cpu_kernel(
    "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", group=UCX_KERNELS
)
def swap(port, endpoint, rank, src, dst, num_bytes, out_tag, in_tag, num_rounds, times, deadline_ns):
    """Both ranks send `src` and receive `dst` at once, `num_rounds` times; `times` as above."""
    worker = load_i64(port, PORT_WORKER)
    lap = 0
    begin = cycles()
    while lap < num_rounds:
        incoming = tag_recv(worker, dst, num_bytes, in_tag, EVERY_BIT, port + 8 * PORT_PLAIN)
        code = send(port, endpoint, rank, src, num_bytes, out_tag, deadline_ns)
        if code == OK:
            code = finish(port, incoming, rank, deadline_ns)
        if code != OK:
            return code
        end = cycles()
        store_i64(times, lap, end - begin)
        begin = end
        lap += 1
    return OK
