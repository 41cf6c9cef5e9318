"""Blocks and spans of an arena: whole blocks for large allocations, spans of cut blocks for slabs.

All under the arena's lock. Truth (block and span words, records) changes by single stores in an order
that a death may cut anywhere; the tables around it change in any order, since `rebuild` computes them
again. Invariants, between any two stores:

    free_is_clean          every record of a free block or span is SLOT_FREE, every span of a free block free
    large_is_committed     a large run belongs to someone only once its record is SLOT_LIVE
    slab_is_its_first      spans are a slab's only while its first span says so
    generations_grow       an address is never allocated twice with one generation. Slots of another size have other
                           records, so all begin behind the slabs that have gone; a block's start has always the same
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, load_u32, store_i64, store_release_i64, store_u32
from ..intrinsics.system import count_trailing_zeros_u64
from .bitmap import ALL_BITS, NO_BIT, clear_bit, find_run, first_bit, open_blocks, set_bit
from .layout import (
    ARENA_BLOCKS,
    ARENA_FREE_SPANS,
    ARENA_NUM_FREE,
    ARENA_RECORDS,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_CONTINUED,
    BLOCK_CUT,
    BLOCK_FREE,
    BLOCK_LARGE,
    FREE_BLOCKS,
    GENERATION_HALF,
    GENERATION_LOW,
    GENERATION_MASK,
    GENERATION_ONE,
    GENERATION_SHIFT,
    PLACE_SHIFT,
    POOL_ATTRIBUTE_MASK,
    POOL_ATTRIBUTE_SHIFT,
    RECORD_BYTES,
    RECORD_SIZE,
    RECORD_STATE,
    SLOT_LOG2,
    SPAN_FREE,
    SPANS_LOG2,
    SPANS_PER_BLOCK,
)


@device_function
def record_address(arena, number):
    """Address of the record of slot `number`."""
    return load_i64(arena, ARENA_RECORDS) + number * RECORD_BYTES


@device_function
def generation_in(state):
    """The generation in a record's state."""
    return (state >> GENERATION_SHIFT) & GENERATION_LOW


@device_function
def later(generation, other):
    """The later of two generations, which wrap around."""
    ahead = (other - generation) & GENERATION_LOW
    return other if ahead < GENERATION_HALF else generation


@device_function
def take_block(arena, pool):
    """Cut the lowest free block, or NO_BIT, into free spans; `pool` has its attribute and line bits."""
    block = first_bit(arena, FREE_BLOCKS)
    if block == NO_BIT:
        return NO_BIT
    store_u32(load_i64(arena, ARENA_FREE_SPANS), block, ALL_BITS)
    store_release_i64(load_i64(arena, ARENA_BLOCKS), block, pool | BLOCK_CUT)
    clear_bit(arena, FREE_BLOCKS, block)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) - 1)
    return block


@device_function
def release_block(arena, block):
    """Give one block back to the block table; it is clean."""
    store_release_i64(load_i64(arena, ARENA_BLOCKS), block, BLOCK_FREE)
    set_bit(arena, FREE_BLOCKS, block)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) + 1)


@device_function
def aligned_runs(free, order):
    """Bits of the spans where 1 << order free ones begin, aligned, in a word of free spans."""
    step = 0
    while step < order:
        free &= free >> (1 << step)
        step += 1
    return free & (ALL_BITS // ((1 << (1 << order)) - 1))


@device_function
def enter_open(arena, block, attribute, free):
    """Say in the bitmaps of open blocks which slabs the free spans of `block` have room for."""
    order = 0
    while order < SPANS_LOG2:
        if aligned_runs(free, order) != 0:
            set_bit(arena, open_blocks(attribute, order), block)
        else:
            clear_bit(arena, open_blocks(attribute, order), block)
        order += 1


@device_function
def take_spans(arena, pool, order, word):
    """Make 1 << order spans a slab with the span word `word` (place 0); its first span, or NO_BIT."""
    attribute = (pool >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
    block = NO_BIT
    if order < SPANS_LOG2:
        block = first_bit(arena, open_blocks(attribute, order))
    if block == NO_BIT:
        block = take_block(arena, pool)
        if block == NO_BIT:
            return NO_BIT
    free_spans = load_i64(arena, ARENA_FREE_SPANS)
    free = load_u32(free_spans, block)
    place = count_trailing_zeros_u64(aligned_runs(free, order))
    num_spans = 1 << order
    free &= ~(((1 << num_spans) - 1) << place)
    store_u32(free_spans, block, free)
    enter_open(arena, block, attribute, free)
    first = (block << SPANS_LOG2) + place
    spans = load_i64(arena, ARENA_SPANS)
    step = num_spans - 1
    while step >= 0:
        # The first span last: with its word the slab exists.
        store_release_i64(spans, first + step, word | (step << PLACE_SHIFT))
        step -= 1
    return first


@device_function
def give_spans(arena, first, order):
    """Return the spans of a slab whose slots are all free; a block whose spans are all free goes back."""
    spans = load_i64(arena, ARENA_SPANS)
    num_spans = 1 << order
    step = 0
    while step < num_spans:
        store_release_i64(spans, first + step, SPAN_FREE)
        step += 1
    block = first >> SPANS_LOG2
    free_spans = load_i64(arena, ARENA_FREE_SPANS)
    place = first & (SPANS_PER_BLOCK - 1)
    free = load_u32(free_spans, block) | (((1 << num_spans) - 1) << place)
    store_u32(free_spans, block, free)
    word = load_i64(load_i64(arena, ARENA_BLOCKS), block)
    attribute = (word >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
    if free == ALL_BITS:
        enter_open(arena, block, attribute, 0)
        release_block(arena, block)
    else:
        enter_open(arena, block, attribute, free)


@device_function
def take_blocks(arena, pool, num_blocks, num_bytes, live):
    """Allocate `num_blocks` free blocks in a row to the owner in `live`; the first of them, or NO_BIT."""
    first = find_run(arena, num_blocks)
    if first == NO_BIT:
        return NO_BIT
    blocks = load_i64(arena, ARENA_BLOCKS)
    block = first + 1
    while block < first + num_blocks:
        store_i64(blocks, block, BLOCK_CONTINUED | (first << ARGUMENT_SHIFT))
        clear_bit(arena, FREE_BLOCKS, block)
        block += 1
    clear_bit(arena, FREE_BLOCKS, first)
    store_i64(arena, ARENA_NUM_FREE, load_i64(arena, ARENA_NUM_FREE) - num_blocks)
    store_release_i64(blocks, first, pool | BLOCK_LARGE | (num_blocks << ARGUMENT_SHIFT))
    record = record_address(arena, first << (SPANS_LOG2 + SLOT_LOG2))
    generation = (load_i64(record, RECORD_STATE) & GENERATION_MASK) + GENERATION_ONE
    store_i64(record, RECORD_SIZE, num_bytes)
    store_release_i64(record, RECORD_STATE, generation | live)
    return first


@device_function
def give_blocks(arena, first):
    """Return the large run at `first`, whose record has just become SLOT_FREE."""
    num_blocks = load_i64(load_i64(arena, ARENA_BLOCKS), first) >> ARGUMENT_SHIFT
    block = first
    while block < first + num_blocks:
        # The first block first: the others are nothing once it is not large.
        release_block(arena, block)
        block += 1
