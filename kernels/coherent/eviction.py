"""Making room: a slot for a line is chosen, and the line that it held is given back.

A shared copy goes silently: the directory may name a rank that has none. An owned one goes home under its
line's lock, before the slot is claimed; so no transaction ever holds two locks.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..data.shared_copy import copy_line
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_relaxed_i64,
    store_release_i64,
)
from ..intrinsics.system import count_trailing_zeros_u64
from ..intrinsics.vector import vec_lanes_i64
from ..page.control import BASE, CONTROL_RANK, CONTROL_SPIN_ROUNDS, place_of, shares_meta
from . import layout as words
from .cache import (
    LINE_IN_TAG,
    NO_SLOT,
    await_group,
    claimed,
    copy_address,
    count,
    first_slot,
    geometry_of,
    has_other_slot,
    in_state,
    is_free_to_store,
    is_of_line,
    is_readable,
    lanes_where,
    line_of,
    set_of,
    set_state,
    state_of_line,
    tag_address,
    tags_from,
)
from .directory import cache_of, directory_word_at, lock_line, locked, unlock_line, wait_turn
from .flits import give_back_by_flit
from .layout import (
    EXCLUSIVE,
    GET_OWNED,
    INVALID,
    MODIFIED,
    PINNED,
    PUT_OWNED,
    SHARED_COPY,
    TAG_STATE_BITS,
    TAG_STATE_MASK,
    TAKEN,
    WRITE_BACK,
)
from .rows import next_word, relation_of, row_of

# what a slot was when it was claimed
HAD_NOTHING, HAD_COPY, HAD_LOST = 0, 1, 2  # HAD_LOST: a copy of this line that others have taken

MULTIPLIER, INCREMENT, TOP_BITS = 6364136223846793005, 1442695040888963407, 56  # low bits have short periods


@inlined_function
def claim_slot(cache, line_log2, line, request, slot):
    """(code, slot, what it had): the slot is FILLING for `line`. OK with NO_SLOT: a sibling was first, look again.

    `slot` is the room that was found before. An upgrade claims the one that has the shared copy, which stays in it
    (HAD_COPY).
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    geometry = geometry_of(cache, line_log2)
    its_set = set_of(geometry, line)
    waited = 0
    while True:
        tag = load_acquire_i64(tag_address(geometry, slot), 0)
        state = tag & TAG_STATE_MASK
        is_copy = is_readable(state_of_line(tag, line))
        if is_copy and not (request == GET_OWNED and (state == SHARED_COPY or state == PINNED)):
            return status.OK, NO_SLOT, HAD_NOTHING
        code = status.OK
        if state in (INVALID, SHARED_COPY):
            desired = claimed(tag, line, load_i64(cache, words.CACHE_VERSION_MASK))
            if compare_swap_i64(tag_address(geometry, slot), 0, tag, desired) == tag:
                if is_copy:
                    return status.OK, slot, HAD_COPY
                if has_other_slot(geometry, line, its_set, slot):
                    set_state(geometry, slot, INVALID)
                    return status.OK, NO_SLOT, HAD_NOTHING
                if state == SHARED_COPY:
                    count(cache, words.NUM_SILENT_EVICTIONS, 1)
                elif tag != 0 and is_of_line(tag, line):
                    return status.OK, slot, HAD_LOST
                return status.OK, slot, HAD_NOTHING
        elif state == TAKEN and waited < load_i64(control, CONTROL_SPIN_ROUNDS):
            code, waited = wait_turn(control, waited)  # its taker has the line's lock, and is done soon
        elif state in (EXCLUSIVE, MODIFIED, TAKEN):
            code = give_back(cache, line_log2, slot, line_of(tag))
        else:  # a sibling uses it
            code, waited = wait_turn(control, waited)
        if code != status.OK:
            return code, slot, HAD_NOTHING
        if not is_free_to_store(state):  # else it was given back, and is free now, unless others were faster
            slot = find_room(cache, geometry, line, its_set)


@inlined_function
def find_room(cache, geometry, line, its_set):
    """A slot for `line`: the one that has it, else one that had it, else a free one, its first slot before
    others, else any, by a generator of pseudo-random numbers (Knuth's MMIX), which falls into step with no walk
    through memory. `its_set` is that of `set_of`."""
    first = first_slot(geometry, line)
    slots, end, in_set = its_set
    lost, free = NO_SLOT, NO_SLOT
    while slots < end:  # as `find_tag`, but one look at a vector says too what was lost and what is free
        tags = tags_from(geometry, slots)
        like = in_set & lanes_where(tags, LINE_IN_TAG, line << TAG_STATE_BITS)
        while like != 0:
            slot = slots + count_trailing_zeros_u64(like)
            tag = load_acquire_i64(tag_address(geometry, slot), 0)
            if is_of_line(tag, line):
                if tag & TAG_STATE_MASK != INVALID:
                    return slot
                lost = slot
            like &= like - 1
        empty = in_set & lanes_where(tags, TAG_STATE_MASK, INVALID)
        if slots == first & -vec_lanes_i64() and (empty >> (first - slots)) & 1:
            free = first
        elif empty != 0 and free == NO_SLOT:
            free = slots + count_trailing_zeros_u64(empty)
        slots += vec_lanes_i64()
    if lost != NO_SLOT:
        return lost
    if free != NO_SLOT:
        return free
    if load_i64(geometry, words.GEOMETRY_NUM_WAYS) > 1:
        clock = load_relaxed_i64(cache, words.CACHE_CLOCK)
        store_relaxed_i64(cache, words.CACHE_CLOCK, clock * MULTIPLIER + INCREMENT)
        return first ^ (clock >> TOP_BITS & (load_i64(geometry, words.GEOMETRY_NUM_WAYS) - 1))
    return first


@device_function
def give_back(cache, line_log2, slot, line):
    """Give the owned copy of `line` in `slot` home: the slot is INVALID then, unless others were faster.

    A copy that is TAKEN while this rank has the line's lock was left so by a rank that died: it is still the
    owner's copy where the directory names the owner, and worthless otherwise.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    address = BASE + (line << line_log2)
    home, kind, offset = place_of(control, address)
    if not shares_meta(control, home):
        return give_back_by_flit(cache, control, line_log2, slot, line)
    rank = load_i64(control, CONTROL_RANK)
    word = directory_word_at(cache_of(control, home), kind, offset, line_log2)
    code, value = lock_line(control, word, rank)
    if code != status.OK:
        return code
    row = row_of(cache, value, PUT_OWNED, relation_of(control, value, rank, home))
    next_value = value
    geometry = geometry_of(cache, line_log2)
    if row & WRITE_BACK:
        code, state = hold(control, geometry, slot, line)
        if state == MODIFIED:
            copy_line(address, copy_address(geometry, slot, line_log2), 1 << line_log2)
            count(cache, words.NUM_WRITE_BACKS, 1)
        if state != INVALID:
            next_value = next_word(control, row, value, rank)
            store_release_i64(word, 0, locked(next_value, rank))
            set_state(geometry, slot, INVALID)
    else:
        tag = load_acquire_i64(tag_address(geometry, slot), 0)
        if is_of_line(tag, line) and tag & TAG_STATE_MASK == TAKEN:
            set_state(geometry, slot, INVALID)
    unlock_line(word, next_value)
    return code


@device_function
def hold(control, geometry, slot, line):
    """Make one's own copy of `line` TAKEN, when no sibling stores into it: (code, the state it was in).

    With the line's lock held, and the directory naming this rank. INVALID where the slot has it no more.
    """
    waited = 0
    address = tag_address(geometry, slot)
    while True:
        tag = load_acquire_i64(address, 0)
        state = tag & TAG_STATE_MASK
        if state == INVALID or not is_of_line(tag, line):
            return status.OK, INVALID  # a sibling has given it back, and it has come again elsewhere
        is_taken = state == TAKEN  # by one who died while it awaited this group, maybe
        if is_free_to_store(state):
            is_taken = compare_swap_i64(address, 0, tag, in_state(tag, TAKEN)) == tag
            if not is_taken:
                continue
        if is_taken:
            code = await_group(control, load_i64(control, CONTROL_RANK), geometry, slot)
            if code != status.OK:
                return code, INVALID
            return code, EXCLUSIVE if state == EXCLUSIVE else MODIFIED
        code, waited = wait_turn(control, waited)
        if code != status.OK:
            return code, INVALID
