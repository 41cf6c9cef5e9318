"""What survives a death: derived tables computed again from truth, and a dead rank's slots taken back.

Both walk the whole arena under its lock (about 5 ns a slot that was ever used), which is rare: `rebuild`
runs when a lock is taken from a dead rank, `reclaim` once a dead rank and arena. Either may be cut short
by another death and is simply run again.

Meanwhile other ranks go on without the lock: they turn SLOT_CACHED into SLOT_LIVE and back, which changes
nothing here, since SLOT_FREE is entered and left under the lock only.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    store_i64,
    store_release_i64,
    store_u32,
)
from .bitmap import ALL_BITS, partial_blocks, set_bit
from .blocks import enter_open, record_address, release_block
from .classes import class_granules, class_order, class_slots
from .layout import (
    ARENA_BITMAP_WORDS,
    ARENA_BITMAPS,
    ARENA_BLOCKS,
    ARENA_FREE_SPANS,
    ARENA_HINTS,
    ARENA_NUM_BLOCKS,
    ARENA_NUM_FREE,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_CUT,
    BLOCK_LARGE,
    BLOCK_LOG2,
    CLASS_MASK,
    CLASS_SHIFT,
    GENERATION_MASK,
    GRANULE_LOG2,
    KIND_MASK,
    NUM_BITMAPS,
    PLACE_MASK,
    PLACE_SHIFT,
    POOL_ATTRIBUTE_MASK,
    POOL_ATTRIBUTE_SHIFT,
    RECORD_BYTES,
    RECORD_SHARED,
    RECORD_STATE,
    RECORD_STATE_MASK,
    SLAB_HINT,
    SLAB_SLOTS,
    SLAB_TOUCHED,
    SLAB_USED,
    SLOT_CACHED,
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_FREE,
    SPAN_SLAB,
    SPANS_LOG2,
    SPANS_PER_BLOCK,
)
from .record import drop_holder, holds, owner_rank
from .slab import fill_slot_bits, retire_slab, slab_address, slot_bits_address


@device_function
def rebuild(arena):
    """Compute everything derived from truth, and finish what a dead rank had begun; the caller has the lock.

    A large run whose record is not live was never handed out or is half freed: its blocks become free. So
    do spans that no slab has, slabs without a slot in use, and blocks without a slab.
    """
    bitmaps = load_i64(arena, ARENA_BITMAPS)
    num_words = NUM_BITMAPS * load_i64(arena, ARENA_BITMAP_WORDS)
    word = 0
    while word < num_words:
        store_u32(bitmaps, word, 0)
        word += 1
    word = 0
    while word < NUM_BITMAPS:
        store_i64(arena, ARENA_HINTS + word, 0)
        word += 1
    store_i64(arena, ARENA_NUM_FREE, 0)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    block = 0
    while block < num_blocks:
        block += rebuild_block(arena, block)


@device_function
def rebuild_block(arena, block):
    """`rebuild` for what begins at `block`; how many blocks that was."""
    word = load_i64(load_i64(arena, ARENA_BLOCKS), block)
    kind = word & KIND_MASK
    if kind == BLOCK_LARGE:
        state = load_acquire_i64(record_address(arena, block << (SPANS_LOG2 + SLOT_LOG2)), RECORD_STATE)
        if state & RECORD_STATE_MASK == SLOT_LIVE:
            return word >> ARGUMENT_SHIFT
    if kind == BLOCK_CUT:
        free = rebuild_spans(arena, block)
        if free != ALL_BITS:
            store_u32(load_i64(arena, ARENA_FREE_SPANS), block, free)
            enter_open(arena, block, (word >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK, free)
            return 1
    release_block(arena, block)
    return 1


@device_function
def rebuild_spans(arena, block):
    """`rebuild` for the slabs of a cut block; the bits of its free spans."""
    spans = load_i64(arena, ARENA_SPANS)
    first = block << SPANS_LOG2
    free = 0
    place = 0
    while place < SPANS_PER_BLOCK:
        word = load_i64(spans, first + place)
        size_class = (word >> CLASS_SHIFT) & CLASS_MASK
        if word & KIND_MASK == SPAN_SLAB and (word >> PLACE_SHIFT) & PLACE_MASK == 0:
            num_slots = class_slots(size_class)
            used = rebuild_slab(arena, first + place, num_slots)
            if used > 0:
                if used < num_slots:
                    attribute = (word >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
                    set_bit(arena, partial_blocks(attribute, size_class), block)
                place += 1 << class_order(size_class)
                continue
            retire_slab(arena, first + place)
        store_release_i64(spans, first + place, SPAN_FREE)
        free |= 1 << place
        place += 1
    return free


@device_function
def rebuild_slab(arena, span, num_slots):
    """Slot bits and counts of one slab; how many of its slots are in use."""
    slab = slab_address(arena, span)
    bits_of_slab = slot_bits_address(arena, span)
    record = record_address(arena, span << SLOT_LOG2)
    touched = load_i64(slab, SLAB_TOUCHED)
    end = touched if touched < num_slots else num_slots
    used = 0
    slot = 0
    while slot < end:
        bits = 0
        bit = 0
        while bit < 32 and slot + bit < end:
            if load_acquire_i64(record, RECORD_STATE) & RECORD_STATE_MASK == SLOT_FREE:
                bits |= 1 << bit
            else:
                used += 1
            record += RECORD_BYTES
            bit += 1
        store_u32(bits_of_slab, slot >> 5, bits)
        slot += 32
    fill_slot_bits(bits_of_slab, touched, num_slots)
    store_i64(slab, SLAB_USED, used)
    store_i64(slab, SLAB_HINT, 0)
    store_i64(slab, SLAB_SLOTS, num_slots)
    return used


@device_function
def reclaim(arena, rank, freed):
    """Take back all that the dead `rank` had in this arena; the caller has the lock.

    Its magazines' slots and what it alone held become free; what others hold goes on to them. Adds to the
    words at `freed`: allocations, their bytes (slots, not what was asked for), slots of magazines.
    """
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    block = 0
    while block < num_blocks:
        word = load_i64(blocks, block)
        if word & KIND_MASK == BLOCK_LARGE:
            number = block << (SPANS_LOG2 + SLOT_LOG2)
            reclaim_slot(arena, number, rank, (word >> ARGUMENT_SHIFT) << BLOCK_LOG2, freed)
        elif word & KIND_MASK == BLOCK_CUT:
            span = block << SPANS_LOG2
            end = span + SPANS_PER_BLOCK
            while span < end:
                reclaim_slab(arena, span, rank, freed)
                span += 1
        block += 1
    rebuild(arena)


@device_function
def reclaim_slab(arena, span, rank, freed):
    """`reclaim` for the slab whose first span is `span`, if it is one."""
    word = load_i64(load_i64(arena, ARENA_SPANS), span)
    if word & KIND_MASK != SPAN_SLAB or (word >> PLACE_SHIFT) & PLACE_MASK != 0:
        return
    size_class = (word >> CLASS_SHIFT) & CLASS_MASK
    slot_bytes = class_granules(size_class) << GRANULE_LOG2
    touched = load_i64(slab_address(arena, span), SLAB_TOUCHED)
    num_slots = class_slots(size_class)
    end = touched if touched < num_slots else num_slots
    slot = 0
    while slot < end:
        reclaim_slot(arena, (span << SLOT_LOG2) + slot, rank, slot_bytes, freed)
        slot += 1


@device_function
def reclaim_slot(arena, number, rank, slot_bytes, freed):
    """`reclaim` for one slot. Others may free it at the same time: then it is theirs."""
    record = record_address(arena, number)
    while True:
        state = load_acquire_i64(record, RECORD_STATE)
        if state & RECORD_STATE_MASK == SLOT_FREE:
            return
        if state & RECORD_SHARED:
            if owner_rank(state) == rank or holds(arena, number, rank):
                if drop_holder(arena, number, rank) != status.OK:
                    count_freed(freed, slot_bytes)
            return
        if owner_rank(state) != rank:
            return
        if compare_swap_i64(record, RECORD_STATE, state, (state & GENERATION_MASK) | SLOT_FREE) == state:
            if state & RECORD_STATE_MASK == SLOT_CACHED:
                store_i64(freed, 2, load_i64(freed, 2) + 1)
            else:
                count_freed(freed, slot_bytes)
            return


@device_function
def count_freed(freed, slot_bytes):
    """Add one allocation to the words at `freed`."""
    store_i64(freed, 0, load_i64(freed, 0) + 1)
    store_i64(freed, 1, load_i64(freed, 1) + slot_bytes)
