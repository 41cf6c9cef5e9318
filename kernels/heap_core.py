"""The shared core of an arena: slabs and runs of blocks, changed under the arena's lock.

Each function changes truth (block words, record states) by single stores in an order that a death may cut
anywhere, and the derived tables around them in any order: `rebuild` computes those again. Invariants,
between any two stores:

    free_block_is_clean    every record of a free block is SLOT_FREE
    slot_has_one_place     a slot is free in the core, in one magazine, or allocated, as its record says
    untouched_is_free      records from SLAB_TOUCHED on are SLOT_FREE
    large_is_committed     a large run belongs to someone only once its record is SLOT_LIVE
"""

from __future__ import annotations

from .compile import device_function
from .heap_bitmap import FULL, NONE, clear_bit, find_run, first_bit, partial_slabs, set_bit
from .heap_classes import class_granules, class_slots, reciprocal
from .heap_layout import (
    ARENA_BLOCKS,
    ARENA_NUM_FREE,
    ARENA_RECORDS,
    ARENA_SLABS,
    ARENA_SLOT_BITS,
    ARGUMENT_SHIFT,
    ATTRIBUTE_MASK,
    ATTRIBUTE_SHIFT,
    BLOCK_CONTINUED,
    BLOCK_FREE,
    BLOCK_LARGE,
    BLOCK_SLAB,
    CLASS_MASK,
    CLASS_SHIFT,
    ENTRY_BLOCK_SHIFT,
    FREE_BLOCKS,
    GENERATION_MASK,
    GENERATION_ONE,
    RECORD_BYTES,
    RECORD_SIZE,
    RECORD_STATE,
    SLAB_HINT,
    SLAB_SLOTS,
    SLAB_TOUCHED,
    SLAB_USED,
    SLAB_WORDS,
    SLOT_BIT_WORDS,
    SLOT_FREE,
    SLOT_LOG2,
)
from .ops import load_i64, load_u32, store_i64, store_release_i64, store_u32
from .ops_system import count_trailing_zeros_u64


@device_function
def record_address(arena, number):
    """Address of the record of slot `number`."""
    return load_i64(arena, ARENA_RECORDS) + number * RECORD_BYTES


@device_function
def slab_address(arena, block):
    """Address of the slab row of `block`."""
    return load_i64(arena, ARENA_SLABS) + block * (SLAB_WORDS * 8)


@device_function
def slot_bits_address(arena, block):
    """Address of the slot bits of `block`: a set bit is a free slot."""
    return load_i64(arena, ARENA_SLOT_BITS) + block * (SLOT_BIT_WORDS * 4)


@device_function
def fill_slot_bits(bits, first, num_slots):
    """Mark the slots from `first` (a multiple of 32) to `num_slots` as free and clear nothing."""
    word = first >> 5
    while word < num_slots >> 5:
        store_u32(bits, word, FULL)
        word += 1
    if num_slots & 31 and word == num_slots >> 5:
        store_u32(bits, word, (1 << (num_slots & 31)) - 1)


@device_function
def make_slab(arena, block, pool, size_class):
    """Cut the free `block` into slots of `size_class`; `pool` has the attribute and line bits of its word."""
    slab = slab_address(arena, block)
    num_slots = class_slots(size_class)
    fill_slot_bits(slot_bits_address(arena, block), 0, num_slots)
    store_i64(slab, SLAB_USED, 0)
    store_i64(slab, SLAB_TOUCHED, 0)
    store_i64(slab, SLAB_HINT, 0)
    store_i64(slab, SLAB_SLOTS, num_slots)
    word = pool | BLOCK_SLAB | (size_class << CLASS_SHIFT) | (reciprocal(size_class) << ARGUMENT_SHIFT)
    store_release_i64(load_i64(arena, ARENA_BLOCKS), block, word)
    clear_bit(arena, FREE_BLOCKS, block)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) - 1)


@device_function
def release_block(arena, block):
    """Give one block back to the block table; its records are SLOT_FREE."""
    store_release_i64(load_i64(arena, ARENA_BLOCKS), block, BLOCK_FREE)
    set_bit(arena, FREE_BLOCKS, block)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) + 1)


@device_function
def take_slots(arena, pool, size_class, cached, dst, wanted):
    """Move up to `wanted` free slots into a magazine; returns how many there were.

    Their records become `cached` and their entries are written to the words at `dst`. Slots come from the
    lowest slab that has one, then from a new slab in the lowest free block.
    """
    bitmap = partial_slabs((pool >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK, size_class)
    taken = 0
    while taken < wanted:
        block = first_bit(arena, bitmap)
        if block == NONE:
            block = first_bit(arena, FREE_BLOCKS)
            if block == NONE:
                return taken
            make_slab(arena, block, pool, size_class)
            set_bit(arena, bitmap, block)
        taken += take_from_slab(arena, block, size_class, cached, dst + taken * 8, wanted - taken)
        slab = slab_address(arena, block)
        if load_i64(slab, SLAB_USED) == load_i64(slab, SLAB_SLOTS):
            clear_bit(arena, bitmap, block)
    return taken


@device_function
def take_from_slab(arena, block, size_class, cached, dst, wanted):
    """`take_slots` from one slab, lowest slot first."""
    slab = slab_address(arena, block)
    bits_of_slab = slot_bits_address(arena, block)
    records = record_address(arena, block << SLOT_LOG2)
    granules = class_granules(size_class)
    num_words = (load_i64(slab, SLAB_SLOTS) + 31) >> 5
    word = load_i64(slab, SLAB_HINT)
    taken = 0
    while taken < wanted and word < num_words:
        bits = load_u32(bits_of_slab, word)
        if bits == 0:
            word += 1
            continue
        if load_i64(slab, SLAB_TOUCHED) < (word + 1) << 5:
            # Release: a slot beyond this mark must never be seen in use by a rebuild.
            store_release_i64(slab, SLAB_TOUCHED, (word + 1) << 5)
        while bits != 0 and taken < wanted:
            slot = (word << 5) + count_trailing_zeros_u64(bits)
            bits &= bits - 1
            record = records + slot * RECORD_BYTES
            store_release_i64(
                record, RECORD_STATE, (load_i64(record, RECORD_STATE) & GENERATION_MASK) | cached
            )
            entry = (block << ENTRY_BLOCK_SHIFT) | (slot << SLOT_LOG2) | (slot * granules)
            store_i64(dst, taken, entry)
            taken += 1
        store_u32(bits_of_slab, word, bits)
    store_i64(slab, SLAB_HINT, word)
    store_i64(slab, SLAB_USED, load_i64(slab, SLAB_USED) + taken)
    return taken


@device_function
def give_slot(arena, block, slot):
    """Return a slot whose record has just become SLOT_FREE; an empty slab returns to the block table."""
    slab = slab_address(arena, block)
    bits_of_slab = slot_bits_address(arena, block)
    word = slot >> 5
    store_u32(bits_of_slab, word, load_u32(bits_of_slab, word) | (1 << (slot & 31)))
    if word < load_i64(slab, SLAB_HINT):
        store_i64(slab, SLAB_HINT, word)
    used = load_i64(slab, SLAB_USED)
    store_i64(slab, SLAB_USED, used - 1)
    if used == load_i64(slab, SLAB_SLOTS) or used == 1:
        block_word = load_i64(load_i64(arena, ARENA_BLOCKS), block)
        attribute = (block_word >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK
        bitmap = partial_slabs(attribute, (block_word >> CLASS_SHIFT) & CLASS_MASK)
        if used == 1:
            clear_bit(arena, bitmap, block)
            release_block(arena, block)
        else:
            set_bit(arena, bitmap, block)


@device_function
def free_record(arena, number):
    """Mark slot `number` as free in the core, keeping its generation."""
    record = record_address(arena, number)
    store_release_i64(record, RECORD_STATE, (load_i64(record, RECORD_STATE) & GENERATION_MASK) | SLOT_FREE)


@device_function
def take_blocks(arena, pool, num_blocks, num_bytes, live):
    """Allocate `num_blocks` free blocks in a row to the owner in `live`; the first of them, or NONE."""
    first = find_run(arena, num_blocks)
    if first == NONE:
        return NONE
    blocks = load_i64(arena, ARENA_BLOCKS)
    block = first + 1
    while block < first + num_blocks:
        store_i64(blocks, block, BLOCK_CONTINUED | (first << ARGUMENT_SHIFT))
        clear_bit(arena, FREE_BLOCKS, block)
        block += 1
    clear_bit(arena, FREE_BLOCKS, first)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) - num_blocks)
    store_release_i64(blocks, first, pool | BLOCK_LARGE | (num_blocks << ARGUMENT_SHIFT))
    record = record_address(arena, first << SLOT_LOG2)
    generation = (load_i64(record, RECORD_STATE) & GENERATION_MASK) + GENERATION_ONE
    store_i64(record, RECORD_SIZE, num_bytes)
    store_release_i64(record, RECORD_STATE, generation | live)
    return first


@device_function
def give_blocks(arena, first):
    """Return the large run at `first`, whose record has just become SLOT_FREE."""
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(blocks, first) >> ARGUMENT_SHIFT
    # The first block goes first: the others are nothing once it is not large.
    block = first
    while block < first + num_blocks:
        release_block(arena, block)
        block += 1
