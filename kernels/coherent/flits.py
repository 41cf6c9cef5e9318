"""The requester's side of flits: asking the agent of a home that this rank does not map.

The slot is FILLING, or TAKEN, from before the flit leaves until its answer is installed; meanwhile the rank's
own agent may be asked for the line by others (umem/lines/home/probes.py). One flit of a rank is under way at a
time: the cache has a gate of its own. A flit that is not answered within a slice is left in the words from
CACHE_FLIT on: PENDING goes back to Python, which waits for the answer and calls `finish_flit`; then the access is
made again, and finds the line.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function
from ..data.shared_copy import copy_line
from ..heap.layout import BLOCK_LOG2
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_u8,
    store_release_i64,
)
from ..page import gate as gates
from ..page import operations
from ..page.control import BASE, CONTROL_RANK
from . import layout as words
from .cache import (
    await_group,
    copy_address,
    count,
    geometry_of,
    in_state,
    is_free_to_store,
    is_of_line,
    set_state,
    tag_address,
)
from .directory import wait_turn
from .layout import (
    ASK_BLOCK,
    CACHE_FLIT,
    DROPPED,
    FLIT_ADDRESS,
    FLIT_BLOCK_SHIFT,
    FLIT_BYTES_SHIFT,
    FLIT_COPY,
    FLIT_HAD_SHIFT,
    FLIT_HAS_LINE,
    FLIT_LEFT,
    FLIT_LINE_LOG2,
    FLIT_OPERATION_SHIFT,
    FLIT_PHASE,
    FLIT_RESULT,
    FLIT_TAG,
    GETTING,
    INVALID,
    MODIFIED_THERE,
    MODIFYING,
    NO_FLIT,
    PINNED,
    PUT_OWNED,
    PUTTING,
    RECALLING,
    SHARED_COPY,
    TAG_STATE_MASK,
    TAKEN,
    WRITE_HOME,
    WRITING_THERE,
)


@device_function
def send_flit(cache, phase, address, word, first, second, tag, copy, line_log2):
    """Send a flit and wait: the handler's status, PENDING and what `finish_flit` needs is noted, or AGAIN.

    A PUTTING flit carries the copy, one that is WRITING_THERE `second` bytes at the pointer `first`.
    """
    gate = load_i64(cache, words.CACHE_GATE)
    if gate == 0 or load_i64(gate, gates.GATE_ASK) == 0:
        return status.NOT_MAPPED
    flit = cache + CACHE_FLIT * 8
    if load_i64(flit, FLIT_PHASE) != NO_FLIT:
        return status.PENDING  # an earlier one was left: it comes first
    if not gates.enter(gate):
        return status.AGAIN
    if phase == PUTTING:
        gates.set_data(gate, copy, 1 << line_log2)
    elif phase == WRITING_THERE:
        gates.set_data(gate, first, second)
    else:
        gates.set_data(gate, 0, 0)
    gates.set_reply(gate, load_i64(cache, words.CACHE_ROOM), 1 << line_log2)
    count(cache, words.NUM_FLITS, 1)
    code = leave_undone(cache, gates.ask(gate, operations.FLIT, address, word, first, second), phase, address)
    gates.leave(gate)
    if code == status.PENDING:
        store_i64(flit, FLIT_TAG, tag)
        store_i64(flit, FLIT_COPY, copy)
        store_i64(flit, FLIT_LINE_LOG2, line_log2)
    elif code == status.NOT_CACHED:
        forget(cache, address)
    return code


@device_function
def leave_undone(cache, code, phase, address):
    """After a request of the cache's gate: its status, or PENDING and what is left of it is noted as `phase`."""
    if not gates.is_pending(code):
        return code
    left = gates.left_of(code)
    if left < 0:
        return left  # the home has answered, and refused
    flit = cache + CACHE_FLIT * 8
    store_i64(flit, FLIT_PHASE, phase)
    store_i64(flit, FLIT_ADDRESS, address)
    store_i64(flit, FLIT_LEFT, left)
    return status.PENDING


@device_function
def read_at_home(cache, address, num_bytes):
    """(code, word) of the bytes at `address`, 8 at most, in memory that is not cached; codes as of `send_flit`.

    After PENDING the bytes are dropped, and to be asked for again.
    """
    gate = load_i64(cache, words.CACHE_GATE)
    if gate == 0:
        return status.NOT_MAPPED, 0
    if load_i64(cache + CACHE_FLIT * 8, FLIT_PHASE) != NO_FLIT:
        return status.PENDING, 0
    if not gates.enter(gate):
        return status.AGAIN, 0
    code = gates.ask_read(gate, address, gates.TO_VALUE, num_bytes)
    word = load_i64(gate, gates.GATE_REPLY)
    code = leave_undone(cache, code, RECALLING, address)
    gates.leave(gate)
    return code, word


@device_function
def forget(cache, address):
    """Drop the note on the block of `address`, which has changed."""
    notes = load_i64(cache, words.CACHE_NOTES)
    if notes != 0:  # else this rank has not touched cached memory yet, and its agent is asked to
        store_relaxed_u8(notes, (address - BASE) >> BLOCK_LOG2, 0)


@device_function
def finish_flit(cache, code, value):
    """End the flit that was left: its home has answered with status `code` and the word `value`.

    A negative `code` also stands for a home that died: then nothing is installed, and an owned copy that was to
    go there stays lost to nobody but this rank.
    """
    flit = cache + CACHE_FLIT * 8
    phase = load_i64(flit, FLIT_PHASE)
    tag, copy = load_i64(flit, FLIT_TAG), load_i64(flit, FLIT_COPY)
    if code == status.NOT_CACHED:
        forget(cache, load_i64(flit, FLIT_ADDRESS))
    store_i64(flit, FLIT_PHASE, NO_FLIT)
    if phase == GETTING:
        if code == status.OK:
            install(cache, tag, copy, load_i64(flit, FLIT_LINE_LOG2), value)
        else:
            end_claim(tag)
    elif phase == PUTTING:
        end_claim(tag)
    elif phase == MODIFYING and code == status.OK:
        store_i64(flit, FLIT_RESULT, value)
        store_i64(flit, FLIT_PHASE, MODIFIED_THERE)


@device_function
def end_claim(tag):
    """Make the slot of the tag at `tag` INVALID."""
    store_release_i64(tag, 0, in_state(load_relaxed_i64(tag, 0), INVALID))


@device_function
def install(cache, tag, copy, line_log2, value):
    """Fill the slot with what has come. A shared grant that others have dropped meanwhile is not kept."""
    if value & FLIT_HAS_LINE:
        copy_line(copy, load_i64(cache, words.CACHE_ROOM), 1 << line_log2)
    granted = value & TAG_STATE_MASK
    seen = load_acquire_i64(tag, 0)
    if granted != SHARED_COPY:
        # What dropped it came before the grant: after it the directory names this rank as the owner.
        store_release_i64(tag, 0, in_state(seen, granted))
        return
    if (
        seen & TAG_STATE_MASK == DROPPED
        or compare_swap_i64(tag, 0, seen, in_state(seen, SHARED_COPY)) != seen
    ):
        end_claim(tag)


@device_function
def get_line_by_flit(cache, address, block, line_log2, request, slot, had):
    """Ask the home for the line that `slot` is FILLING with: OK (look again), PENDING, or why it refuses."""
    geometry = geometry_of(cache, line_log2)
    tag, copy = tag_address(geometry, slot), copy_address(geometry, slot, line_log2)
    word = request | block << FLIT_BLOCK_SHIFT | had << FLIT_HAD_SHIFT
    code = send_flit(cache, GETTING, address, word, 0, 0, tag, copy, line_log2)
    if code == status.OK:
        install(cache, tag, copy, line_log2, load_i64(load_i64(cache, words.CACHE_GATE), gates.GATE_REPLY))
    elif code != status.PENDING or load_i64(cache, CACHE_FLIT + FLIT_TAG) != tag:
        end_claim(tag)
    return code


@device_function
def give_back_by_flit(cache, control, line_log2, slot, line):
    """Give the owned copy of `line` in `slot` to its home: OK, and the slot is INVALID; PENDING; AGAIN."""
    geometry = geometry_of(cache, line_log2)
    tag = tag_address(geometry, slot)
    if load_i64(cache, CACHE_FLIT + FLIT_PHASE) != NO_FLIT:
        return status.PENDING  # before the copy is TAKEN: from then on it can only go
    waited = 0
    while True:
        seen = load_acquire_i64(tag, 0)
        state = seen & TAG_STATE_MASK
        if not is_of_line(seen, line) or state == INVALID or state == SHARED_COPY:
            return status.OK
        is_owned = is_free_to_store(state)
        if is_owned and compare_swap_i64(tag, 0, seen, in_state(seen, PINNED)) == seen:
            break
        if not is_owned:
            code, waited = wait_turn(control, waited)
            if code != status.OK:
                return code
    # PINNED first: the rank's agent hands out what is TAKEN, and after that it could not be MODIFIED again.
    code = await_group(control, load_i64(control, CONTROL_RANK), geometry, slot)
    if code != status.OK:
        return code
    set_state(geometry, slot, TAKEN)
    address = BASE + (line << line_log2)
    copy = copy_address(geometry, slot, line_log2)
    word = PUT_OWNED | line_log2 << FLIT_BLOCK_SHIFT
    code = send_flit(cache, PUTTING, address, word, 0, 0, tag, copy, line_log2)
    if code != status.PENDING:
        end_claim(tag)
        count(cache, words.NUM_WRITE_BACKS, 1)
    # Where the memory is no more, or no more cached, the copy is worth nothing, and the slot is free all the same.
    return status.OK if code == status.NOT_CACHED or code == status.RANK_LOST else code


@device_function
def modify_at_home(cache, address, block, operation, num_bytes, first, second):
    """(code, what stood there) of an operation that the home's agent does with the line locked."""
    flit = cache + CACHE_FLIT * 8
    if load_i64(flit, FLIT_PHASE) == MODIFIED_THERE and load_i64(flit, FLIT_ADDRESS) == address:
        store_i64(flit, FLIT_PHASE, NO_FLIT)  # the answer to what was asked before
        return status.OK, load_i64(flit, FLIT_RESULT)
    word = WRITE_HOME | block << FLIT_BLOCK_SHIFT
    word |= operation << FLIT_OPERATION_SHIFT | num_bytes << FLIT_BYTES_SHIFT
    code = send_flit(cache, MODIFYING, address, word, first, second, 0, 0, 3)
    if code == status.OK:
        return code, load_i64(load_i64(cache, words.CACHE_GATE), gates.GATE_REPLY)
    return code, 0


@device_function
def write_at_home(cache, address, block, src, num_bytes):
    """Have the home's agent copy bytes that lie in one line to `address`, with the line locked: a status.

    Where it is not OK the bytes may have been written or not: to write them again does no harm.
    """
    word = WRITE_HOME | block << FLIT_BLOCK_SHIFT | operations.WRITE << FLIT_OPERATION_SHIFT
    return send_flit(cache, WRITING_THERE, address, word, src, num_bytes, 0, 0, 3)


@device_function
def ask_home(cache, address, block, request):
    """(code, word) that the home's agent answers to RECALL_SHARED, RECALL_OWNED or ASK_BLOCK."""
    code = send_flit(cache, RECALLING, address, request | block << FLIT_BLOCK_SHIFT, 0, 0, 0, 0, 3)
    if code == status.OK:
        return code, load_i64(load_i64(cache, words.CACHE_GATE), gates.GATE_REPLY)
    return code, 0


assert ASK_BLOCK < 1 << FLIT_BLOCK_SHIFT
