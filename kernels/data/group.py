"""What lanes of a GPU do together: copies, copies that tell a waiter, waits, a barrier of GPUs; one lane on the CPU.

Each comes in three forms: by a thread alone, by the 32 lanes of a warp, by all lanes of a block. The lanes of a group
call with the same arguments, and all of them call. Signals here are plain int64 words on lines of their own, whose
values grow: a GPU wakes no sleeper, so these are not the signals of page/signal.py.

Waits poll relaxed and fence once behind: each acquire of the system's scope empties a multiprocessor's cache. A
deadline is a difference of one device's own clock; clocks of two devices are never compared.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..build.variants import family
from ..intrinsics.scalar import (
    fence_acquire,
    fetch_add_i64,
    load_relaxed_i64,
    load_u8,
    store_release_i64,
    store_u8,
)
from ..intrinsics.system import (
    block_lane,
    block_meet,
    copy_bytes,
    is_gpu,
    now_ns,
    num_block_lanes,
    pause,
    warp_meet,
)
from ..intrinsics.vector import vec_lanes_i64
from ..status import OK, WAIT_TIMEOUT
from .copy import copy_unit, copy_vectors, unit_bytes

FLAG_WORDS = 16  # 128 bytes: a line of every processor, two of some
WARP_LANES = 32
POLLS_PER_LOOK = 16


@device_function
def copy_edge(dst, src, num_bytes, lane, num_lanes):
    """Copy a few bytes, one a lane in turn."""
    i = lane
    while i < num_bytes:
        store_u8(dst, i, load_u8(src, i))
        i += num_lanes


@device_function
def copy_lanes(dst, src, num_bytes, lane, num_lanes):
    """Copy `num_bytes` of any alignment by `num_lanes` lanes, of which this is `lane`; plain accesses.

    Vectors where both ends are aligned alike, else the widest words that both allow; the edges too are dealt out to
    the lanes. Twin: dst[:] = src.
    """
    if is_gpu() == 0 and num_lanes == 1:
        copy_bytes(dst, src, num_bytes)
        return
    apart = dst ^ src
    if apart & 15 == 0:
        head = min(-dst & 15, num_bytes)
        vector_bytes = 8 * vec_lanes_i64()
        num_vectors = (num_bytes - head) // vector_bytes
        copy_vectors(dst + head, src + head, num_vectors, lane, num_lanes)
        end = head + num_vectors * vector_bytes
    else:
        size = unit_bytes(apart)
        head = min(-dst & (size - 1), num_bytes)
        end = head + ((num_bytes - head) & -size)
        at = head + lane * size
        while at < end:
            copy_unit(dst + at, src + at, size)
            at += num_lanes * size
    copy_edge(dst, src, head, lane, num_lanes)
    copy_edge(dst + end, src + end, num_bytes - end, lane, num_lanes)


@device_function
def thread_lane():
    """The lane among those of one thread."""
    return 0


@device_function
def thread_lanes():
    """One."""
    return 1


@device_function
def thread_meet(flag):
    """`block_meet` of one thread."""
    return 1 if flag else 0


@device_function
def warp_lane():
    """This lane's number in its warp."""
    return block_lane() & (WARP_LANES - 1)


@device_function
def num_warp_lanes():
    """Lanes of this lane's warp: 32, fewer in the last warp of some blocks, 1 on the CPU."""
    return min(WARP_LANES, num_block_lanes() - (block_lane() & -WARP_LANES))


@device_function
def copy(dst, src, num_bytes):
    """Copy `num_bytes` of any alignment, which do not overlap; complete, and seen by the group, on return."""
    copy_lanes(dst, src, num_bytes, block_lane(), num_block_lanes())
    block_meet(0)


@device_function
def put_signal(dst, src, num_bytes, signal, value):
    """Copy, then set the word `signal` to `value`: whoever waits for it sees the bytes, on any processor (release)."""
    copy_lanes(dst, src, num_bytes, block_lane(), num_block_lanes())
    block_meet(0)
    if block_lane() == 0:
        store_release_i64(signal, 0, value)


@device_function
def put_signal_add(dst, src, num_bytes, signal, delta):
    """Copy, then add `delta` to the word `signal`: `put_signal` for several writers, where atomics reach it."""
    copy_lanes(dst, src, num_bytes, block_lane(), num_block_lanes())
    block_meet(0)
    if block_lane() == 0:
        fetch_add_i64(signal, 0, delta)


@device_function
def poll_signal(signal, value, start_ns, timeout_ns):
    """Poll until the word is at least `value`: OK, or WAIT_TIMEOUT `timeout_ns` after `start_ns`. Relaxed."""
    polls = 0
    while load_relaxed_i64(signal, 0) < value:
        polls += 1
        if polls % POLLS_PER_LOOK == 0 and now_ns() - start_ns >= timeout_ns:
            return WAIT_TIMEOUT
        pause()
    return OK


@device_function
def wait_signal(signal, value, timeout_ns):
    """Wait until the word `signal` is at least `value`, for `timeout_ns` at most; OK or WAIT_TIMEOUT, to all lanes.

    Acquire: after OK every lane of the group sees what was stored before the value. One lane polls.
    """
    code = OK
    if block_lane() == 0:
        code = poll_signal(signal, value, now_ns(), timeout_ns)
        fence_acquire()
    return WAIT_TIMEOUT if block_meet(code) else OK


@device_function
def group_barrier(flags, num_ranks, rank, epoch, timeout_ns):
    """Wait until `num_ranks` groups have come to barrier `epoch`, for `timeout_ns` at most; OK or WAIT_TIMEOUT.

    `flags` are `num_ranks` lines of FLAG_WORDS words, zeros at first, in memory that all reach (Space.barrier_flags);
    `rank` is this group's line. Epochs count 1, 2, ...; a barrier that timed out is called again with the same one.
    Release and acquire among all lanes of all groups. A launch with several blocks takes a line for each, and is
    cooperative. Writes this group's line.
    """
    block_meet(0)
    if block_lane() == 0:
        store_release_i64(flags, rank * FLAG_WORDS, epoch)
    start_ns = now_ns()
    code = OK
    other = block_lane()
    while other < num_ranks and code == OK:
        code = poll_signal(flags + 8 * FLAG_WORDS * other, epoch, start_ns, timeout_ns)
        other += num_block_lanes()
    fence_acquire()
    return WAIT_TIMEOUT if block_meet(code) else OK


GROUP_FORMS = (copy, put_signal, put_signal_add, wait_signal, group_barrier)
OF_THREAD = family(
    GROUP_FORMS, "thread", block_lane=thread_lane, num_block_lanes=thread_lanes, block_meet=thread_meet
)
OF_WARP = family(
    GROUP_FORMS, "warp", block_lane=warp_lane, num_block_lanes=num_warp_lanes, block_meet=warp_meet
)
OF_BLOCK = family(GROUP_FORMS, "block")

copy_thread, copy_warp, copy_block = OF_THREAD.copy, OF_WARP.copy, OF_BLOCK.copy
put_signal_thread, put_signal_warp, put_signal_block = (
    OF_THREAD.put_signal,
    OF_WARP.put_signal,
    OF_BLOCK.put_signal,
)
put_signal_add_thread, put_signal_add_warp = OF_THREAD.put_signal_add, OF_WARP.put_signal_add
put_signal_add_block = OF_BLOCK.put_signal_add
wait_signal_thread, wait_signal_warp, wait_signal_block = (
    OF_THREAD.wait_signal,
    OF_WARP.wait_signal,
    OF_BLOCK.wait_signal,
)
group_barrier_thread, group_barrier_warp = OF_THREAD.group_barrier, OF_WARP.group_barrier
group_barrier_block = OF_BLOCK.group_barrier
