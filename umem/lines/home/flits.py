"""Flits: what a home's agent does for a rank that does not map the home, or that met a holder it does not map.

The same rows as in kernels/coherent/transaction.py, with the same lock, so both kinds of requesters live side by side.
What one rank does by loads and stores is here done in turns: a holder that is not mapped is sent a probe, and the
request is PENDING until the last answer is in.

    turn 1      lock the line, or wait without it; send the probes; do the rest by loads and stores
    turns       ask for each probe whether it is answered; a holder that died is one
    last turn   as the row says: reply with the line, access the home; publish the directory word
"""

from __future__ import annotations

from ...agent import layout
from ...agent.layout import REPLY_PAYLOAD, REPLY_PAYLOAD_BYTES, REPLY_VALUE, REQUEST_PAYLOAD, REQUEST_SOURCE
from ...agent.serving.handlers import HANDLER, argument
from ...kernels import c_callback, device_function, status
from ...kernels.coherent import layout as words
from ...kernels.coherent.cache import (
    NO_SLOT,
    copy_address,
    count,
    geometry_of,
    invalidate,
    search,
    set_state,
    take,
)
from ...kernels.coherent.directory import (
    NO_RANK,
    block_value,
    cache_of,
    directory_word,
    line_state,
    locked,
    owner_of,
    unlock_line,
    unlocked,
)
from ...kernels.coherent.eviction import HAD_COPY
from ...kernels.coherent.rows import copy_state, next_word, relation_of, row_of
from ...kernels.coherent.transaction import first_target
from ...kernels.data.shared_copy import copy_line
from ...kernels.intrinsics.scalar import (
    compare_swap_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_release_i64,
)
from ...kernels.page.control import (
    CONTROL_NUM_RANKS,
    CONTROL_RANK,
    home_rank,
    peer_is_dead,
    shares_meta,
)
from ...memory.address import BASE
from .home_access import modify_home
from .probe_rounds import SCRATCH_LOST, are_answered, send_probes
from .prober import FLIT_KERNELS
from .probes import PROBE_INVALIDATE, PROBE_TAKE_INVALID, PROBE_TAKE_SHARED

# scratch words of a request: 0 before the line is locked
SCRATCH_WORD_AT, SCRATCH_VALUE, SCRATCH_KIND = 0, 1, 2  # directory word, its value, the probes' kind + 1


@device_function
def effective(kind):
    """The protocol's request of a flit; a recall is what the home itself would ask."""
    if kind == words.RECALL_SHARED:
        return words.GET_SHARED
    return words.WRITE_HOME if kind == words.RECALL_OWNED else kind


@device_function
def relation_in(control, value, kind, source, rank):
    """The relation of the rank for whom it is done."""
    return (
        words.HOME
        if kind in (words.RECALL_SHARED, words.RECALL_OWNED)
        else relation_of(control, value, source, rank)
    )


@device_function
def try_lock(control, word, rank):
    """(1, value) where the line is locked now; (0, 0) where another holds it."""
    seen = load_relaxed_i64(word, 0)
    free = unlocked(seen)
    if seen & words.DIRECTORY_LOCK and not peer_is_dead(
        control, (seen >> words.HOLDER_SHIFT) & words.RANK_MASK
    ):
        return 0, 0
    if compare_swap_i64(word, 0, seen, locked(free, rank)) == seen:
        return 1, free
    return 0, 0


@device_function
def begin(request, context, cache, control, start, line_log2, kind, source, rank):
    """The first turn, the line locked: OK with the probes sent, or a status with the line unlocked."""
    scratch = request + layout.REQUEST_SCRATCH * layout.WORD
    word, value = load_i64(scratch, SCRATCH_WORD_AT), load_i64(scratch, SCRATCH_VALUE)
    if line_state(value) == words.LINE_POISONED:
        unlock_line(word, value)
        return status.POISONED
    row = row_of(cache, value, effective(kind), relation_in(control, value, kind, source, rank))
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    line = (start - BASE) >> line_log2
    if row & (words.FORWARD_SHARED | words.FORWARD_INVALID):
        owner = owner_of(value)
        if not shares_meta(control, owner):
            store_i64(
                scratch,
                SCRATCH_KIND,
                1 + (PROBE_TAKE_SHARED if row & words.FORWARD_SHARED else PROBE_TAKE_INVALID),
            )
            send_probes(request, context, row, value, rank)
            return status.OK
        owner_cache = cache_of(control, owner)
        code, slot = take(control, owner_cache, owner, line_log2, line)
        if code == status.NOT_FOUND:
            store_i64(scratch, SCRATCH_LOST, 1)
        elif code != status.OK:
            unlock_line(word, value)
            store_i64(scratch, SCRATCH_WORD_AT, 0)
            return status.PENDING if code == status.AGAIN else code
        else:
            geometry = geometry_of(owner_cache, line_log2)
            copy_line(start, copy_address(geometry, slot, line_log2), 1 << line_log2)
            count(cache, words.NUM_FORWARDS, 1)
            count(cache, words.INVALIDATED + owner, 1)
    elif row & (words.INVALIDATE | words.INVALIDATE_ALL):
        target = first_target(value, row, 0, num_ranks)
        while target != NO_RANK:
            if target != source or effective(kind) == words.WRITE_HOME:
                if shares_meta(control, target):
                    if target != rank and invalidate(cache_of(control, target), line_log2, line):
                        count(cache, words.NUM_INVALIDATIONS, 1)
                        count(cache, words.INVALIDATED + target, 1)
                else:
                    store_i64(scratch, SCRATCH_KIND, 1 + PROBE_INVALIDATE)
            target = first_target(value, row, target + 1, num_ranks)
        if load_i64(scratch, SCRATCH_KIND) != 0:
            send_probes(request, context, row, value, rank)
    return status.OK


@device_function
def end(request, reply, cache, control, start, line_log2, kind, source, rank):
    """The last turn: all copies that were in the way are gone, or lost."""
    scratch = request + layout.REQUEST_SCRATCH * layout.WORD
    word, value = load_i64(scratch, SCRATCH_WORD_AT), load_i64(scratch, SCRATCH_VALUE)
    if load_i64(scratch, SCRATCH_LOST) != 0:
        count(cache, words.NUM_POISONINGS, 1)
        unlock_line(word, words.LINE_POISONED << words.DIRECTORY_STATE_SHIFT)
        return status.POISONED
    if kind in (words.GET_SHARED, words.GET_OWNED, words.WRITE_HOME) and peer_is_dead(control, source):
        # What was done for it so far is what the home itself would have done.
        kind = words.RECALL_SHARED if kind == words.GET_SHARED else words.RECALL_OWNED
    relation = relation_in(control, value, kind, source, rank)
    row = row_of(cache, value, effective(kind), relation)
    asked = argument(request, 1)
    if row & words.WRITE_BACK:
        copy_line(start, load_i64(request, REQUEST_PAYLOAD), 1 << line_log2)
        count(cache, words.NUM_WRITE_BACKS, 1)
    if kind == words.WRITE_HOME:
        modify_home(request, reply, asked)
    elif kind in (words.GET_SHARED, words.GET_OWNED):
        granted = copy_state(row)
        had = (asked >> words.FLIT_HAD_SHIFT) & 15
        if row & words.READ_HOME and not (had == HAD_COPY and relation == words.SHARER):
            copy_line(load_i64(reply, REPLY_PAYLOAD), start, 1 << line_log2)
            store_i64(reply, REPLY_PAYLOAD_BYTES, 1 << line_log2)
            granted |= words.FLIT_HAS_LINE
        store_i64(reply, REPLY_VALUE, granted)
    next_value = next_word(control, row, value, source)
    store_release_i64(word, 0, locked(next_value, rank))
    if row & (words.FORWARD_SHARED | words.FORWARD_INVALID):
        let_mapped_owner_go(control, owner_of(value), row, start, line_log2)
    unlock_line(word, next_value)
    return status.OK


@device_function
def let_mapped_owner_go(control, owner, row, start, line_log2):
    """End the TAKEN of an owner whose cache is mapped, once the directory names the next."""
    if shares_meta(control, owner):
        cache = cache_of(control, owner)
        geometry = geometry_of(cache, line_log2)
        slot, tag = search(geometry, (start - BASE) >> line_log2)
        if slot != NO_SLOT and tag & words.TAG_STATE_MASK == words.TAKEN:
            set_state(geometry, slot, words.SHARED_COPY if row & words.FORWARD_SHARED else words.INVALID)


@c_callback(HANDLER, group=FLIT_KERNELS)
def serve_flit(request, reply, context):
    """Arguments: address, the flit's word (kernels/coherent/layout.py), operands. Payload of PUT_OWNED: the line.

    The reply's value: for a line the state granted, and whether the line comes along; for WRITE_HOME what stood
    there. NOT_CACHED where the memory is not what the requester takes it for, POISONED, RANK_LOST for the dead.
    """
    cache = load_i64(context, 0)
    control = load_i64(cache, words.CACHE_CONTROL)
    rank, source = load_i64(control, CONTROL_RANK), load_i64(request, REQUEST_SOURCE)
    address, asked = argument(request, 0), argument(request, 1)
    kind = asked & ((1 << words.FLIT_BLOCK_SHIFT) - 1)
    scratch = request + layout.REQUEST_SCRATCH * layout.WORD
    line_log2 = (asked >> words.FLIT_BLOCK_SHIFT) & words.LINE_LOG2_MASK
    start = BASE + (((address - BASE) >> line_log2) << line_log2)
    if load_i64(scratch, SCRATCH_WORD_AT) == 0:
        is_locked, code = check_and_lock(request, reply, cache, control, rank, source, address, asked, kind)
        if not is_locked:
            return code
        code = begin(request, context, cache, control, start, line_log2, kind, source, rank)
        if code != status.OK:
            return code
    if load_i64(scratch, SCRATCH_KIND) != 0 and not are_answered(
        request, context, start, line_log2, load_i64(scratch, SCRATCH_KIND) - 1
    ):
        return status.PENDING
    return end(request, reply, cache, control, start, line_log2, kind, source, rank)


@device_function
def check_and_lock(request, reply, cache, control, rank, source, address, asked, kind):
    """(True, OK) where the line is locked now, its directory word in the scratch words; else (False, what the handler
    is to return): the flit is refused, or done without a lock, or PENDING while another holds it."""
    if home_rank(control, address) != rank:
        return False, status.OUT_OF_RANGE
    if peer_is_dead(control, source):
        return False, status.RANK_LOST
    block = block_value(control, rank, address)
    if kind == words.ASK_BLOCK:
        store_i64(reply, REPLY_VALUE, block)
        return False, status.OK
    noted = (asked >> words.FLIT_BLOCK_SHIFT) & words.BLOCK_WORD_MASK
    # What gives a line back knows its size alone: the copy has outlived the rank's interest in the block.
    differs = (block ^ noted) & words.LINE_LOG2_MASK if kind == words.PUT_OWNED else block ^ noted
    if differs != 0:
        return False, status.NOT_CACHED
    if block == 0:
        if kind != words.WRITE_HOME:
            return False, status.NOT_CACHED
        modify_home(request, reply, asked)  # raw memory: the agent's own atomic step
        return False, status.OK
    word = directory_word(control, cache, address, block & words.LINE_LOG2_MASK)
    is_locked, value = try_lock(control, word, rank)
    if is_locked == 0:
        return False, status.PENDING
    scratch = request + layout.REQUEST_SCRATCH * layout.WORD
    store_i64(scratch, SCRATCH_WORD_AT, word)
    store_i64(scratch, SCRATCH_VALUE, value)
    store_i64(scratch, SCRATCH_KIND, 0)
    store_i64(scratch, SCRATCH_LOST, 0)
    return True, status.OK
