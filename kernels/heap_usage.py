"""What an arena holds and for whom, read from truth without the lock, and a check of all its invariants.

While others allocate, a walk sees each slot as it was at some moment of the walk, not all at one moment.
"""

from __future__ import annotations

from .compile import device_function
from .heap_bitmap import bitmap_address, partial_slabs
from .heap_classes import class_granules, class_slots
from .heap_core import record_address, slab_address, slot_bits_address
from .heap_layout import (
    ARENA_BLOCKS,
    ARENA_HOLDER_WORDS,
    ARENA_NUM_BLOCKS,
    ARENA_NUM_FREE,
    ARGUMENT_SHIFT,
    ATTRIBUTE_MASK,
    ATTRIBUTE_SHIFT,
    BLOCK_CONTINUED,
    BLOCK_FREE,
    BLOCK_LARGE,
    BLOCK_LOG2,
    BLOCK_SLAB,
    CLASS_MASK,
    CLASS_SHIFT,
    FREE_BLOCKS,
    GENERATION_SHIFT,
    GRANULE_LOG2,
    KIND_MASK,
    RECORD_SIZE,
    RECORD_STATE,
    SHARED,
    SLAB_SLOTS,
    SLAB_TOUCHED,
    SLAB_USED,
    SLOT_CACHED,
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_LOG2,
    STATE_MASK,
)
from .heap_record import first_holder, holders_address, owner_rank, slot_address
from .ops import load_acquire_i64, load_i64, load_u32, store_i64
from .ops_system import count_ones_u64

# --- words that `heap_usage` writes: the arena, then one row an owner
USAGE_FREE_BLOCKS = 0
USAGE_LONGEST_RUN = 1  # free blocks in a row
USAGE_SLAB_FREE_BYTES = 2  # free slots of slabs: for requests of their size class only
USAGE_SLAB_BLOCKS = 3
USAGE_LARGE_BLOCKS = 4
USAGE_OWNERS = 8
OWNER_COUNT = 0  # allocations
OWNER_SLOT_BYTES = 1  # what they occupy
OWNER_ASKED_BYTES = 2  # what was asked for
OWNER_CACHED_BYTES = 3  # free slots in its magazines
OWNER_WORDS = 4

# --- words of a row that `heap_list` writes
LIST_ADDRESS, LIST_BYTES, LIST_OWNER, LIST_GENERATION, LIST_REFERENCES, LIST_WORDS = 0, 1, 2, 3, 4, 5

END = -1

# --- what `heap_audit` finds: problem << 32 | block
FREE_BIT_DIFFERS = 1
RECORD_OF_FREE_BLOCK = 2
CONTINUATION_DIFFERS = 3
SLAB_COUNT_DIFFERS = 4
SLOT_BIT_DIFFERS = 5
PARTIAL_BIT_DIFFERS = 6
HOLDERS_WITHOUT_MARK = 8
FREE_COUNT_DIFFERS = 9
LARGE_NOT_LIVE = 10


@device_function
def add_word(base, index, value):
    """Add to a word that nobody else writes."""
    store_i64(base, index, load_i64(base, index) + value)


@device_function
def used_slots(arena, block, word):
    """Slots of `block` that may be in use: a walk may stop there."""
    kind = word & KIND_MASK
    if kind == BLOCK_LARGE:
        return 1
    if kind != BLOCK_SLAB:
        return 0
    num_slots = class_slots((word >> CLASS_SHIFT) & CLASS_MASK)
    touched = load_i64(slab_address(arena, block), SLAB_TOUCHED)
    return touched if touched < num_slots else num_slots


@device_function
def slot_bytes(word):
    """Bytes of a slot of the slab or large run with this block word."""
    if word & KIND_MASK == BLOCK_LARGE:
        return (word >> ARGUMENT_SHIFT) << BLOCK_LOG2
    return class_granules((word >> CLASS_SHIFT) & CLASS_MASK) << GRANULE_LOG2


@device_function
def heap_usage(arena, num_ranks, out):
    """Write USAGE_OWNERS + (num_ranks + 1) * OWNER_WORDS words at `out`, zero before; the last row is the
    world's."""
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    run = 0
    block = 0
    while block < num_blocks:
        word = load_acquire_i64(blocks, block)
        kind = word & KIND_MASK
        if kind == BLOCK_FREE:
            run += 1
            add_word(out, USAGE_FREE_BLOCKS, 1)
            if run > load_i64(out, USAGE_LONGEST_RUN):
                store_i64(out, USAGE_LONGEST_RUN, run)
        else:
            run = 0
            add_word(out, USAGE_SLAB_BLOCKS if kind == BLOCK_SLAB else USAGE_LARGE_BLOCKS, 1)
            usage_of_block(arena, block, word, num_ranks, out)
        block += 1


@device_function
def usage_of_block(arena, block, word, num_ranks, out):
    """`heap_usage` of the slots of one block."""
    num_used = used_slots(arena, block, word)
    size = slot_bytes(word)
    if word & KIND_MASK == BLOCK_SLAB:
        num_slots = class_slots((word >> CLASS_SHIFT) & CLASS_MASK)
        add_word(out, USAGE_SLAB_FREE_BYTES, (num_slots - num_used) * size)
    slot = 0
    while slot < num_used:
        record = record_address(arena, (block << SLOT_LOG2) + slot)
        state = load_acquire_i64(record, RECORD_STATE)
        owner = owner_rank(state)
        if owner < 0 or owner >= num_ranks:
            owner = num_ranks
        row = out + (USAGE_OWNERS + owner * OWNER_WORDS) * 8
        if state & STATE_MASK == SLOT_LIVE:
            add_word(row, OWNER_COUNT, 1)
            add_word(row, OWNER_SLOT_BYTES, size)
            add_word(row, OWNER_ASKED_BYTES, load_i64(record, RECORD_SIZE))
        elif state & STATE_MASK == SLOT_CACHED:
            add_word(row, OWNER_CACHED_BYTES, size)
        elif word & KIND_MASK == BLOCK_SLAB:
            add_word(out, USAGE_SLAB_FREE_BYTES, size)
        slot += 1


@device_function
def num_references(arena, number):
    """Ranks that hold slot `number`, its owner included."""
    holders = holders_address(arena, number)
    num_words = load_i64(arena, ARENA_HOLDER_WORDS)
    count = 1
    word = 0
    while word < num_words:
        count += count_ones_u64(load_u32(holders, word))
        word += 1
    return count


@device_function
def heap_list(arena, number, rows, capacity):
    """Write rows of LIST_WORDS for live allocations from slot `number` on, at most `capacity`.

    Unused rows are left alone: their address is 0 if it was. Returns the slot to go on from, or END. The
    owner of what belongs to the world is WORLD_OWNER - 1.
    """
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    block = number >> SLOT_LOG2
    slot = number - (block << SLOT_LOG2)
    written = 0
    while block < num_blocks:
        word = load_acquire_i64(blocks, block)
        num_used = used_slots(arena, block, word)
        while slot < num_used:
            number = (block << SLOT_LOG2) + slot
            record = record_address(arena, number)
            state = load_acquire_i64(record, RECORD_STATE)
            if state & STATE_MASK == SLOT_LIVE:
                if written == capacity:
                    return number
                row = rows + written * LIST_WORDS * 8
                store_i64(row, LIST_ADDRESS, slot_address(arena, number))
                store_i64(row, LIST_BYTES, load_i64(record, RECORD_SIZE))
                store_i64(row, LIST_OWNER, owner_rank(state))
                store_i64(row, LIST_GENERATION, (state >> GENERATION_SHIFT) & 0xFFFF_FFFF)
                store_i64(row, LIST_REFERENCES, num_references(arena, number) if state & SHARED else 1)
                written += 1
            slot += 1
        slot = 0
        block += 1
    return END


@device_function
def bit_of(words, index):
    """Bit `index` of a bitmap."""
    return (load_u32(words, index >> 5) >> (index & 31)) & 1


@device_function
def heap_audit(arena):
    """0 where derived tables agree with truth and every invariant holds, else problem << 32 | block.

    For an arena that nobody changes meanwhile.
    """
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    free_bits = bitmap_address(arena, FREE_BLOCKS)
    num_free = 0
    first_of_run = 0
    block = 0
    while block < num_blocks:
        word = load_acquire_i64(blocks, block)
        kind = word & KIND_MASK
        is_free = 1 if kind == BLOCK_FREE else 0
        num_free += is_free
        problem = 0
        if bit_of(free_bits, block) != is_free:
            problem = FREE_BIT_DIFFERS
        elif kind == BLOCK_FREE:
            problem = audit_free_block(arena, block)
        elif kind == BLOCK_CONTINUED:
            first = word >> ARGUMENT_SHIFT
            first_word = load_i64(blocks, first)
            if first != first_of_run or first_word & KIND_MASK != BLOCK_LARGE:
                problem = CONTINUATION_DIFFERS
            elif first + (first_word >> ARGUMENT_SHIFT) <= block:
                problem = CONTINUATION_DIFFERS
        elif kind == BLOCK_LARGE:
            first_of_run = block
            problem = audit_slot(arena, block << SLOT_LOG2)
            if load_i64(record_address(arena, block << SLOT_LOG2), RECORD_STATE) & STATE_MASK != SLOT_LIVE:
                problem = LARGE_NOT_LIVE
        else:
            problem = audit_slab(arena, block, word)
        if problem != 0:
            return (problem << 32) | block
        block += 1
    if num_free != load_i64(arena, ARENA_NUM_FREE):
        return FREE_COUNT_DIFFERS << 32
    return 0


@device_function
def audit_free_block(arena, block):
    """free_block_is_clean, as far as the block's last slab had touched it."""
    touched = load_i64(slab_address(arena, block), SLAB_TOUCHED)
    slot = 0
    while slot < touched or slot == 0:
        state = load_i64(record_address(arena, (block << SLOT_LOG2) + slot), RECORD_STATE)
        if state & STATE_MASK != SLOT_FREE:
            return RECORD_OF_FREE_BLOCK
        slot += 1
    return 0


@device_function
def audit_slab(arena, block, word):
    """Counts and bits of a slab against its records."""
    slab = slab_address(arena, block)
    num_slots = class_slots((word >> CLASS_SHIFT) & CLASS_MASK)
    touched = load_i64(slab, SLAB_TOUCHED)
    used = 0
    slot = 0
    while slot < num_slots:
        is_free = 1
        if slot < touched:
            problem = audit_slot(arena, (block << SLOT_LOG2) + slot)
            if problem != 0:
                return problem
            state = load_i64(record_address(arena, (block << SLOT_LOG2) + slot), RECORD_STATE)
            if state & STATE_MASK != SLOT_FREE:
                is_free = 0
                used += 1
        if bit_of(slot_bits_address(arena, block), slot) != is_free:
            return SLOT_BIT_DIFFERS
        slot += 1
    if used != load_i64(slab, SLAB_USED) or num_slots != load_i64(slab, SLAB_SLOTS) or used == 0:
        return SLAB_COUNT_DIFFERS
    attribute = (word >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK
    partial = bitmap_address(arena, partial_slabs(attribute, (word >> CLASS_SHIFT) & CLASS_MASK))
    if bit_of(partial, block) != (1 if used < num_slots else 0):
        return PARTIAL_BIT_DIFFERS
    return 0


@device_function
def audit_slot(arena, number):
    """Holder bits stand only where the record is live and marked as shared."""
    state = load_i64(record_address(arena, number), RECORD_STATE)
    if state & STATE_MASK == SLOT_LIVE and state & SHARED:
        return 0
    return HOLDERS_WITHOUT_MARK if first_holder(arena, number) >= 0 else 0
