"""Workloads in compiled loops, one request after the other: by loads, and by messages.

A request sums `num_rows` rows of 64 float32 into one; `indices` holds the requests back to back.
"""

from __future__ import annotations

from umem.fabric.ucx.port import PORT_PLAIN, PORT_WORKER
from umem.fabric.ucx.waiting import UCX_KERNELS
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.collective.layout import ALL_REDUCE
from umem.kernels.collective.run import advance, begin
from umem.kernels.data.copy import copy
from umem.kernels.data.gather import gather_rows
from umem.kernels.data.gather_sum import GATHER_SUM
from umem.kernels.data.reduce import REDUCE
from umem.kernels.intrinsics.scalar import load_i64, store_i64
from umem.kernels.intrinsics.system import cycles, now_ns
from umem.kernels.status import AGAIN, OK, SLICE_NS

from .message_loops import EVERY_BIT, finish, receive, send, tag_recv

NUM_COLUMNS = 64
ROW_BYTES = 4 * NUM_COLUMNS
STREAM_BYTES = 1 << 40  # never streams: the packed rows are read at once

sum_rows, reduce_f32 = GATHER_SUM["f32"], REDUCE["f32"]


@cpu_kernel("void(int64, int64, int64, int64, int64, int64)")
def gather_sum_each(out, table, indices, offsets, num_rows, num_requests):
    """`num_requests` sums, each finished before the next begins; `offsets` are the words 0 and num_rows."""
    number = 0
    while number < num_requests:
        sum_rows(
            out + number * ROW_BYTES,
            table,
            indices + number * num_rows * 8,
            offsets,
            1,
            NUM_COLUMNS,
            ROW_BYTES,
            0,
            1,
        )
        number += 1


_ASK = "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_ASK, group=UCX_KERNELS)
def ask_sums(
    port,
    endpoint,
    rank,
    out,
    indices,
    num_rows,
    num_requests,
    num_samples,
    room,
    offsets,
    tags,
    times,
    end_ns,
):
    """Rank 0's side: send the indices, receive the sum. `times` takes the cycles of each of `num_samples`.

    Sample i uses request i % num_requests. `tags` is the outgoing tag; the incoming one differs by the rank.
    """
    sample = 0
    begin = cycles()
    while sample < num_samples:
        number = sample % num_requests
        code = send(port, endpoint, rank, indices + number * num_rows * 8, num_rows * 8, tags, end_ns)
        if code == OK:
            code = receive(port, rank, out + number * ROW_BYTES, ROW_BYTES, tags | rank << 48, end_ns)
        if code != OK:
            return code
        end = cycles()
        store_i64(times, sample, end - begin)
        begin = end
        sample += 1
    return OK


@cpu_kernel(_ASK, group=UCX_KERNELS)
def serve_sums(
    port, endpoint, rank, out, table, num_rows, num_requests, num_samples, room, offsets, tags, times, end_ns
):
    """Rank 1's side: `room` takes the indices, `out` one sum. `tags` is the incoming tag."""
    sample = 0
    while sample < num_samples:
        code = receive(port, rank, room, num_rows * 8, tags, end_ns)
        if code == OK:
            sum_rows(out, table, room, offsets, 1, NUM_COLUMNS, ROW_BYTES, 0, 1)
            code = send(port, endpoint, rank, out, ROW_BYTES, tags | 1 << 48, end_ns)
        if code != OK:
            return code
        sample += 1
    return OK


@cpu_kernel(_ASK, group=UCX_KERNELS)
def ask_rows(
    port,
    endpoint,
    rank,
    out,
    indices,
    num_rows,
    num_requests,
    num_samples,
    room,
    offsets,
    tags,
    times,
    end_ns,
):
    """Rank 0's side of the staged way: receive the rows into `room`, unpack them behind it, sum them.

    `room` holds two blocks of num_rows rows; `offsets` are the words 0, num_rows, then 0, 1, 2, ...: the rows
    in order.
    """
    unpacked = room + num_rows * ROW_BYTES
    sample = 0
    begin = cycles()
    while sample < num_samples:
        number = sample % num_requests
        code = send(port, endpoint, rank, indices + number * num_rows * 8, num_rows * 8, tags, end_ns)
        if code == OK:
            code = receive(port, rank, room, num_rows * ROW_BYTES, tags | rank << 48, end_ns)
        if code != OK:
            return code
        copy(unpacked, room, num_rows * ROW_BYTES, STREAM_BYTES, 0, 1)
        target = out + number * ROW_BYTES
        sum_rows(target, unpacked, offsets + 16, offsets, 1, NUM_COLUMNS, ROW_BYTES, 0, 1)
        end = cycles()
        store_i64(times, sample, end - begin)
        begin = end
        sample += 1
    return OK


@cpu_kernel(_ASK, group=UCX_KERNELS)
def serve_rows(
    port, endpoint, rank, out, table, num_rows, num_requests, num_samples, room, offsets, tags, times, end_ns
):
    """Rank 1's side of the staged way: copy the rows out, pack them, send them all.

    `room` takes the indices, then two blocks of num_rows rows.
    """
    staging = room + num_rows * 8
    message = staging + num_rows * ROW_BYTES
    sample = 0
    while sample < num_samples:
        code = receive(port, rank, room, num_rows * 8, tags, end_ns)
        if code == OK:
            gather_rows(staging, table, room, num_rows, ROW_BYTES, STREAM_BYTES, 0, 1)
            copy(message, staging, num_rows * ROW_BYTES, STREAM_BYTES, 0, 1)
            code = send(port, endpoint, rank, message, num_rows * ROW_BYTES, tags | 1 << 48, end_ns)
        if code != OK:
            return code
        sample += 1
    return OK


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def reduce_by_team(team, call, dst, src, num_bytes, reduction, num_rounds, epoch, end_ns):
    """All-reduces of float32 by the team's own kernels, one after the other."""
    lap = 0
    while lap < num_rounds:
        begin(team, ALL_REDUCE, call, src, dst, num_bytes, 0, reduction, 4, 0)
        code = advance(team, epoch, SLICE_NS)
        while code == AGAIN and now_ns() < end_ns:
            code = advance(team, epoch, SLICE_NS)
        if code != OK:
            return code
        lap += 1
    return OK


@cpu_kernel(_ASK, group=UCX_KERNELS)
def reduce_by_messages(
    port,
    endpoint,
    rank,
    out,
    mine,
    theirs,
    sources,
    num_elements,
    out_tag,
    in_tag,
    num_samples,
    times,
    end_ns,
):
    """All-reduce of two ranks by messages: both send their whole block at once, then each sums both."""
    worker = load_i64(port, PORT_WORKER)
    num_bytes = num_elements * 4
    sample = 0
    begin = cycles()
    while sample < num_samples:
        incoming = tag_recv(worker, theirs, num_bytes, in_tag, EVERY_BIT, port + 8 * PORT_PLAIN)
        code = send(port, endpoint, rank, mine, num_bytes, out_tag, end_ns)
        if code == OK:
            code = finish(port, incoming, rank, end_ns)
        if code != OK:
            return code
        reduce_f32(out, sources, 2, num_elements, STREAM_BYTES, 0, 1)
        end = cycles()
        store_i64(times, sample, end - begin)
        begin = end
        sample += 1
    return OK
