"""A transaction: what the table says for one request on one line, done by the requester itself.

The home and all holders of copies are mapped. The order of its stores lets the requester die anywhere:

    lock the line; invalidate sharers, or take the owner's copy and bring it home
    where a copy was taken, or the home's memory is to change:
        directory word: as after the transaction, still locked   from here on the next holders are the holders
        owner's tag: SHARED_COPY or INVALID                      until here its copy is whole
    own tag: as the row says, where a copy was taken, or is not owned; unlock
    own tag, where it becomes the owner and took no copy         the next taker waits until it is FILLING no more

An upgrade by the only sharer has nothing to do between lock and unlock: it is one step from word to word.

So there is a whole copy where the directory says, or in the memory of the home, at any moment. A rank that is the
owner is named as such before its tag says so: the home goes by the directory alone. Actions stand in the table in
this order (layout.py).

A line of the processor that others look at again and again costs a trip each time it is stored to: so the directory
word is stored to as seldom as that allows, and what a transaction will touch is asked for at once (`foresee`).
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
    store_release_i64,
)
from ..intrinsics.system import prefetch, prefetch_for_store
from ..page.control import BASE, CONTROL_NUM_RANKS, CONTROL_RANK, shares_meta
from . import layout as words
from .cache import (
    NO_SLOT,
    copy_address,
    count,
    first_slot,
    geometry_of,
    invalidate,
    own_tag,
    set_state,
    state_of_line,
    take,
)
from .directory import NO_RANK, cache_of, line_state, lock_line, locked, next_sharer, owner_of, unlock_line
from .eviction import HAD_COPY, HAD_LOST, HAD_NOTHING
from .layout import (
    DIRECTORY_LOCK,
    DIRECTORY_STATE_SHIFT,
    FORWARD_INVALID,
    FORWARD_SHARED,
    GET_OWNED,
    INVALID,
    INVALIDATE,
    INVALIDATE_ALL,
    LINE_OWNED,
    LINE_POISONED,
    LINE_SHARED,
    READ_HOME,
    SET_OWNER,
    SHARED_COPY,
    TAKEN,
    WRITE_HOME,
)
from .misses import note_loss
from .rows import copy_state, next_word, relation_of, row_of

PROCESSOR_LINE, FORESEEN_BYTES = 64, 128  # of longer lines the processor itself foresees the rest
TAKES_COPIES = FORWARD_SHARED | FORWARD_INVALID | INVALIDATE | INVALIDATE_ALL


@inlined_function
def get_line(cache, home, word, line, line_log2, request, slot, had):
    """Fill `slot`, which is claimed for `line`, from its mapped home, as `request` wants: a status.

    `word` is the address of the line's directory word. OK: the slot has the line, if others have not taken it since.
    NOT_MAPPED where a holder is not mapped: then the home's agent must recall its copy first. POISONED, AGAIN,
    INTERRUPTED: nothing was done, and the slot is free again.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    rank = load_i64(control, CONTROL_RANK)
    start = BASE + (line << line_log2)
    geometry = geometry_of(cache, line_log2)
    if had == HAD_COPY:
        row = upgrade_at_once(cache, control, home, word, rank, request)
        if row != 0:
            set_state(geometry, slot, copy_state(row))
            return status.OK
    code, value = lock_line(control, word, rank)
    if code != status.OK:
        set_state(geometry, slot, INVALID)
        return code
    relation = relation_of(control, value, rank, home)
    row = row_of(cache, value, request, relation)
    code, owner_slot = clear_the_way(cache, word, value, row, rank, start, line, line_log2)
    if code != status.OK:
        set_state(geometry, slot, INVALID)
        return code
    if row & READ_HOME and not (had == HAD_COPY and relation == words.SHARER):
        copy_line(copy_address(geometry, slot, line_log2), start, 1 << line_log2)
    next_value = next_word(control, row, value, rank)
    if owner_slot != NO_SLOT:
        let_owner_go(control, word, value, row, next_value, rank, line_log2, owner_slot)
    publish(geometry, slot, copy_state(row), word, next_value, owner_slot == NO_SLOT and row & SET_OWNER)
    return status.OK


@inlined_function
def upgrade_at_once(cache, control, home, word, rank, request):
    """The row of an upgrade by the only sharer, done; 0 where others have copies, or the line is locked.

    Nothing happens between its lock and its end, so that it needs neither: one step on the directory's word. A home
    that waits for this very store looks at that word all the time, and takes it away after each change.
    """
    value = load_acquire_i64(word, 0)
    if value & DIRECTORY_LOCK or line_state(value) != LINE_SHARED:
        return 0
    relation = relation_of(control, value, rank, home)
    row = row_of(cache, value, request, relation)
    if relation != words.SHARER or row & INVALIDATE_ALL or is_shared_by_others(control, value, rank):
        return 0
    return row if compare_swap_i64(word, 0, value, next_word(control, row, value, rank)) == value else 0


@inlined_function
def is_shared_by_others(control, value, rank):
    """True where the word of a shared line names another rank than `rank`, or a group of ranks."""
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    sharer = next_sharer(value, 0, num_ranks)
    if sharer == rank:
        sharer = next_sharer(value, rank + 1, num_ranks)
    return sharer != NO_RANK


@inlined_function
def foresee(control, cache, word, line, line_log2, request):
    """Prefetch, all at once, the words that a transaction will touch: otherwise it would fetch one after the other.

    Only hints: whatever the directory says by then, nothing follows from what it says here. Nothing is asked for where
    another rank takes the line just now: it has the lock, and would lose the word that it is about to store to.
    """
    start = BASE + (line << line_log2)
    second = min(1 << line_log2, FORESEEN_BYTES) - PROCESSOR_LINE
    own = own_tag(geometry_of(cache, line_log2), line)
    tag = load_relaxed_i64(own, 0)
    state = state_of_line(tag, line)
    if state == TAKEN:
        return
    prefetch_for_store(word)
    prefetch_for_store(own)
    if state != SHARED_COPY:  # else an upgrade, which leaves the home's memory alone
        prefetch(start)
        prefetch(start + second)
    value = load_relaxed_i64(word, 0)
    if line_state(value) == LINE_OWNED:
        owner = owner_of(value)
        if shares_meta(control, owner):
            geometry = geometry_of(cache_of(control, owner), line_log2)
            copy = copy_address(geometry, first_slot(geometry, line), line_log2)
            prefetch_for_store(own_tag(geometry, line))
            prefetch(copy)
            prefetch(copy + second)
            prefetch_for_store(start)
            prefetch_for_store(start + second)
    elif request == GET_OWNED and line_state(value) == LINE_SHARED:
        num_ranks = load_i64(control, CONTROL_NUM_RANKS)
        sharer = next_sharer(value, 0, num_ranks)
        while sharer != NO_RANK:
            if shares_meta(control, sharer):
                prefetch_for_store(own_tag(geometry_of(cache_of(control, sharer), line_log2), line))
            sharer = next_sharer(value, sharer + 1, num_ranks)


@inlined_function
def lock_home(cache, home, word, address, line, line_log2, request):
    """Do all that `request` needs before an access at the home itself: (code, next value of the directory's `word`).

    On OK the line is locked and its memory at home is the truth: access it, then `unlock_line(word, value)`.
    Else as `get_line`.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    rank = load_i64(control, CONTROL_RANK)
    start = BASE + (line << line_log2)
    code, value = lock_line(control, word, rank)
    if code != status.OK:
        return code, value
    row = row_of(cache, value, request, relation_of(control, value, rank, home))
    code, owner_slot = clear_the_way(cache, word, value, row, rank, start, line, line_log2)
    if code != status.OK:
        return code, value
    if home != rank and row & (INVALIDATE | INVALIDATE_ALL):
        invalidate(cache, line_log2, line)  # its own copy: the row leaves it none
    next_value = next_word(control, row, value, rank)
    if owner_slot != NO_SLOT:
        let_owner_go(control, word, value, row, next_value, rank, line_log2, owner_slot)
    elif next_value != value:
        # Before the memory changes: a sharer that claims its slot for an upgrade was let alone, and must not take its
        # copy for the line if this rank dies.
        name_holders(word, next_value, rank)
    count(cache, words.NUM_HOME_TRANSACTIONS, 1)
    if row & TAKES_COPIES and load_i64(cache, words.CACHE_COUNTERS) != 0:
        note_loss(cache, address, line_log2, request == WRITE_HOME)
    return status.OK, next_value


@inlined_function
def clear_the_way(cache, word, value, row, rank, address, line, line_log2):
    """Invalidate sharers, or take the owner's copy home: (code, the owner's slot or NO_SLOT).

    With the line locked; where the code is not OK the line is unlocked again.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    if line_state(value) == LINE_POISONED:
        unlock_line(word, value)
        return status.POISONED, NO_SLOT
    assert row != 0
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    if row & (FORWARD_SHARED | FORWARD_INVALID):
        owner = owner_of(value)
        if not shares_meta(control, owner):
            unlock_line(word, value)
            return status.NOT_MAPPED, NO_SLOT
        owner_cache = cache_of(control, owner)
        code, slot = take(control, owner_cache, owner, line_log2, line)
        if code == status.NOT_FOUND:
            unlock_line(word, LINE_POISONED << DIRECTORY_STATE_SHIFT)
            count(cache, words.NUM_POISONINGS, 1)
            return status.POISONED, slot
        if code != status.OK:
            unlock_line(word, value)
            return code, slot
        copy_line(address, copy_address(geometry_of(owner_cache, line_log2), slot, line_log2), 1 << line_log2)
        count(cache, words.NUM_FORWARDS, 1)
        count(cache, words.INVALIDATED + owner, 1)
        return status.OK, slot
    if row & (INVALIDATE | INVALIDATE_ALL):
        if not are_mapped(control, value, row, rank, num_ranks):
            unlock_line(word, value)
            return status.NOT_MAPPED, NO_SLOT
        sharer = first_target(value, row, 0, num_ranks)
        while sharer != NO_RANK:
            if sharer != rank and invalidate(cache_of(control, sharer), line_log2, line):
                count(cache, words.NUM_INVALIDATIONS, 1)
                count(cache, words.INVALIDATED + sharer, 1)
            sharer = first_target(value, row, sharer + 1, num_ranks)
    return status.OK, NO_SLOT


@inlined_function
def first_target(value, row, start, num_ranks):
    """The first rank from `start` on that the row's invalidation goes to, or NO_RANK."""
    if row & INVALIDATE_ALL:
        return start if start < num_ranks else NO_RANK
    return next_sharer(value, start, num_ranks)


@device_function
def are_mapped(control, value, row, rank, num_ranks):
    """True where every rank but `rank` that must lose its copy is mapped here."""
    target = first_target(value, row, 0, num_ranks)
    while target != NO_RANK:
        if target != rank and not shares_meta(control, target):
            return False
        target = first_target(value, row, target + 1, num_ranks)
    return True


@inlined_function
def name_holders(word, next_value, rank):
    """Let the locked word say what holds after the transaction: from here on it does, though `rank` may die."""
    store_release_i64(word, 0, locked(next_value, rank))


@inlined_function
def let_owner_go(control, word, value, row, next_value, rank, line_log2, owner_slot):
    """Name the next holders in the locked word, then end the TAKEN of the owner's slot."""
    name_holders(word, next_value, rank)
    state = SHARED_COPY if row & FORWARD_SHARED else INVALID
    set_state(geometry_of(cache_of(control, owner_of(value)), line_log2), owner_slot, state)


@inlined_function
def publish(geometry, slot, state, word, next_value, is_new_owner):
    """End the requester's claim and unlock the line.

    A new owner that the locked word does not name yet is named first: the home reads its memory by the directory
    alone, and must see that the line is owned before a sibling of the owner can store into the copy. A rank that
    wants the line meanwhile waits until the slot is FILLING no more. A sharer's tag is set before the unlock: the next
    transaction then finds it.
    """
    if is_new_owner:
        unlock_line(word, next_value)
        set_state(geometry, slot, state)
    else:
        set_state(geometry, slot, state)
        unlock_line(word, next_value)


@inlined_function
def note_miss(cache, request, had, address, line_log2):
    """Count a miss by its kind, and note it where it is the work of others."""
    if load_i64(cache, words.CACHE_COUNTERS) != 0:
        if had == HAD_COPY:
            count(cache, words.NUM_UPGRADES, 1)
        elif request == GET_OWNED:
            count(cache, words.NUM_WRITE_MISSES, 1)
        else:
            count(cache, words.NUM_READ_MISSES, 1)
        if had == HAD_LOST:
            count(cache, words.NUM_COHERENCE_MISSES, 1)
        if had != HAD_COPY:
            count(cache, words.NUM_BYTES_MOVED, 1 << line_log2)
        if had != HAD_NOTHING:
            note_loss(cache, address, line_log2, request == GET_OWNED)
