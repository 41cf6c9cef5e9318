"""Coherent accesses in compiled loops, the same for every attribute and in every world.

Each loop goes from position `first` to `last` and returns (status, position reached, ...): where the status is
not OK the access at that position was not done; the caller settles and goes on from there.
"""

from __future__ import annotations

from umem.fabric.ucx import calls
from umem.fabric.ucx.port import PORT_PLAIN
from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.coherent.span import coherent_read, coherent_write
from umem.kernels.coherent.typed import coherent_fetch_add_i64, coherent_load_i64, coherent_store_i64
from umem.kernels.data.copy import copy
from umem.kernels.intrinsics.scalar import load_i64
from umem.kernels.intrinsics.system import pause, yield_cpu
from umem.kernels.status import AGAIN, OK

from .message_loops import finish

COHERENCE_LOOPS = "coherence"  # compiled where coherence is measured, and only there
_UCX_GROUP = "ucx"
WORK_ADD, WORK_WRITE, WORK_READ, WORK_READ_RAW = 0, 1, 2, 3  # kinds of work on a block
PHASE_WAIT, PHASE_WORK, PHASE_PASS_ON, NUM_PHASES = 0, 1, 2, 3  # of a turn
_MAX_POLLS = 1 << 16  # then Python looks at the clock
NEVER_STREAMS = 1 << 40  # bytes

_EACH = "UniTuple(int64, 3)(int64, int64, int64, int64, int64, int64)"
ucp_get = calls.get


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def load_each(cache, base, stride, mask, first, last):
    """Load the word at `base` + (i & mask) * stride for every i; third, the sum of the words."""
    total, i = 0, first
    while i < last:
        code, value = coherent_load_i64(cache, base + (i & mask) * stride)
        if code != OK:
            return code, i, total
        total += value
        i += 1
    return OK, i, total


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def store_each(cache, base, stride, mask, first, last):
    """Store i to the word at `base` + (i & mask) * stride for every i."""
    i = first
    while i < last:
        code = coherent_store_i64(cache, base + (i & mask) * stride, i)
        if code != OK:
            return code, i, 0
        i += 1
    return OK, i, 0


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def add_each(cache, base, stride, mask, first, last):
    """Add 1 to the word at `base` + (i & mask) * stride for every i."""
    i = first
    while i < last:
        code, _ = coherent_fetch_add_i64(cache, base + (i & mask) * stride, 1)
        if code != OK:
            return code, i, 0
        i += 1
    return OK, i, 0


@cpu_kernel("UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64)", group=COHERENCE_LOOPS)
def mostly_load(cache, offsets, base, period, first, last):
    """Load the word at `base` + offsets[i] for every i; where i % period is period - 1, add 1 to it instead."""
    i = first
    left = period - first % period
    while i < last:
        address = base + load_i64(offsets, i)
        left -= 1
        if left == 0:
            code, _ = coherent_fetch_add_i64(cache, address, 1)
            left = period
        else:
            code, _ = coherent_load_i64(cache, address)
        if code != OK:
            return code, i
        i += 1
    return OK, i


@device_function
def await_turn(cache, turn, number, polls_a_yield):
    """OK once the word at `turn` is `number`; AGAIN after _MAX_POLLS."""
    polls = 0
    while polls < _MAX_POLLS:
        code, value = coherent_load_i64(cache, turn)
        if code != OK:
            return code
        if value == number:
            return OK
        polls += 1
        if polls % polls_a_yield == 0:
            yield_cpu()
        else:
            pause()
    return AGAIN


@device_function
def work(cache, what, block, own, num_bytes, stride, done):
    """(status, bytes done) of one turn's work, from byte `done` on."""
    if what == WORK_ADD:
        while done < num_bytes:
            code, _ = coherent_fetch_add_i64(cache, block + done, 1)
            if code != OK:
                return code, done
            done += stride
        return OK, done
    if what == WORK_WRITE:
        code, more = coherent_write(cache, block + done, own + done, num_bytes - done)
    else:
        code, more = coherent_read(cache, own + done, block + done, num_bytes - done)
    return code, done + more


@cpu_kernel("UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64, int64)", group=COHERENCE_LOOPS)
def copy_each(cache, what, block, own, num_bytes, first, last):
    """WORK_READ, WORK_WRITE or WORK_READ_RAW (uncached memory) a whole block, for every i."""
    i = first
    while i < last:
        if what == WORK_READ_RAW:
            copy(own, block, num_bytes, NEVER_STREAMS, 0, 1)
        else:
            code, _ = work(cache, what, block, own, num_bytes, num_bytes, 0)
            if code != OK:
                return code, i
        i += 1
    return OK, i


_TURNS = (
    "UniTuple(int64, 3)(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"
)


@cpu_kernel(_TURNS, group=COHERENCE_LOOPS)
def take_turns(cache, turn, side, what, block, own, num_bytes, stride, polls_a_yield, first, last, done):
    """Two sides in turn: wait for the turn, work on the block, pass the turn on. NUM_PHASES positions a turn.

    The word at `turn` counts turns: side s has those with turn % 2 == s. WORK_ADD adds 1 to a word every
    `stride` bytes of the block, WORK_WRITE writes it from the pointer `own`, WORK_READ reads it to there; `done` bytes
    of it are done already.
    """
    position = first
    while position < last:
        phase, number = position % NUM_PHASES, position // NUM_PHASES * 2 + side
        if phase == PHASE_WAIT:
            code = await_turn(cache, turn, number, polls_a_yield)
            done = 0
        elif phase == PHASE_WORK:
            code, done = work(cache, what, block, own, num_bytes, stride, done)
        else:
            code = coherent_store_i64(cache, turn, number + 1)
        if code != OK:
            return code, position, done
        position += 1
    return OK, position, 0


@cpu_kernel("UniTuple(int64, 3)(int64, int64, int64, int64, int64, int64, int64)", group=COHERENCE_LOOPS)
def read_rows(cache, table, row_bytes, indices, own, first, last):
    """Read row indices[i] of `table` to the pointer `own` for every i; also the sum of the rows' first words."""
    total, i = 0, first
    while i < last:
        code, _ = coherent_read(cache, own, table + load_i64(indices, i) * row_bytes, row_bytes)
        if code != OK:
            return code, i, total
        total += load_i64(own, 0)
        i += 1
    return OK, i, total


@cpu_kernel(
    "UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)",
    group=_UCX_GROUP,
)
def get_rows(port, endpoint, rank, key, table, row_bytes, indices, own, num_rows, deadline_ns):
    """Read row indices[i] to `own` for every i by one get over UCX each: (status, sum of the rows' first words)."""
    total, i = 0, 0
    while i < num_rows:
        address = table + load_i64(indices, i) * row_bytes
        request = ucp_get(endpoint, own, row_bytes, address, key, port + 8 * PORT_PLAIN)
        code = finish(port, request, rank, deadline_ns)
        if code != OK:
            return code, total
        total += load_i64(own, 0)
        i += 1
    return OK, total
