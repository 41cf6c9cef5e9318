"""What an arena holds and for whom, read from truth without the lock.

While others allocate, a walk sees each slot as it was at some moment of the walk, not all at one moment.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_acquire_i64, load_i64, load_u32, store_i64
from ..intrinsics.system import count_ones_u64
from .blocks import generation_in, record_address
from .classes import class_granules, class_slots
from .layout import (
    ARENA_BLOCKS,
    ARENA_HOLDER_WORDS,
    ARENA_NUM_BLOCKS,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_CUT,
    BLOCK_FREE,
    BLOCK_LARGE,
    BLOCK_LOG2,
    CLASS_MASK,
    CLASS_SHIFT,
    GRANULE_LOG2,
    KIND_MASK,
    PLACE_MASK,
    PLACE_SHIFT,
    RECORD_SHARED,
    RECORD_SIZE,
    RECORD_STATE,
    RECORD_STATE_MASK,
    SLAB_TOUCHED,
    SLOT_CACHED,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_FREE,
    SPAN_SLAB,
    SPAN_SLOT_MASK,
    SPANS_LOG2,
    SPANS_PER_BLOCK,
)
from .record import holders_address, owner_rank, slot_address
from .slab import slab_address

# --- words that `heap_usage` writes: the arena, then one row an owner
USAGE_FREE_BLOCKS = 0
USAGE_LONGEST_RUN = 1  # free blocks in a row
USAGE_SLAB_FREE_BYTES = 2  # free slots of slabs: for requests of their size class only
USAGE_FREE_SPANS = 3  # of cut blocks
USAGE_CUT_BLOCKS = 4
USAGE_LARGE_BLOCKS = 5
USAGE_OWNERS = 8
OWNER_COUNT = 0  # allocations
OWNER_SLOT_BYTES = 1  # what they occupy
OWNER_ASKED_BYTES = 2  # what was asked for
OWNER_CACHED_BYTES = 3  # free slots in its magazines
OWNER_WORDS = 4

# --- words of a row that `heap_list` writes
LIST_ADDRESS, LIST_BYTES, LIST_OWNER, LIST_GENERATION, LIST_REFERENCES, LIST_WORDS = 0, 1, 2, 3, 4, 5

END_OF_SLOTS = -1


@device_function
def add_word(base, index, value):
    """Add to a word that no other thread writes."""
    store_i64(base, index, load_i64(base, index) + value)


@device_function
def slots_in_span(arena, span):
    """Slots numbered from `span` that may be in use: of a large run there, or of a slab that begins there."""
    block_word = load_acquire_i64(load_i64(arena, ARENA_BLOCKS), span >> SPANS_LOG2)
    if block_word & KIND_MASK == BLOCK_LARGE:
        return 1 if span & (SPANS_PER_BLOCK - 1) == 0 else 0
    word = load_acquire_i64(load_i64(arena, ARENA_SPANS), span)
    if block_word & KIND_MASK != BLOCK_CUT or word & KIND_MASK != SPAN_SLAB:
        return 0
    if (word >> PLACE_SHIFT) & PLACE_MASK != 0:
        return 0
    num_slots = class_slots((word >> CLASS_SHIFT) & CLASS_MASK)
    touched = load_i64(slab_address(arena, span), SLAB_TOUCHED)
    return touched if touched < num_slots else num_slots


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
        run = run + 1 if kind == BLOCK_FREE else 0
        if kind == BLOCK_FREE:
            add_word(out, USAGE_FREE_BLOCKS, 1)
            if run > load_i64(out, USAGE_LONGEST_RUN):
                store_i64(out, USAGE_LONGEST_RUN, run)
        elif kind == BLOCK_CUT:
            add_word(out, USAGE_CUT_BLOCKS, 1)
            span = block << SPANS_LOG2
            end = span + SPANS_PER_BLOCK
            while span < end:
                usage_of_span(arena, span, num_ranks, out)
                span += 1
        else:
            add_word(out, USAGE_LARGE_BLOCKS, 1)
            if kind == BLOCK_LARGE:
                size = (word >> ARGUMENT_SHIFT) << BLOCK_LOG2
                usage_of_slot(arena, block << (SPANS_LOG2 + SLOT_LOG2), size, num_ranks, out)
        block += 1


@device_function
def usage_of_span(arena, span, num_ranks, out):
    """`heap_usage` of a span of a cut block, and of the slab that begins there."""
    word = load_acquire_i64(load_i64(arena, ARENA_SPANS), span)
    if word & KIND_MASK == SPAN_FREE:
        add_word(out, USAGE_FREE_SPANS, 1)
    elif (word >> PLACE_SHIFT) & PLACE_MASK == 0:
        size_class = (word >> CLASS_SHIFT) & CLASS_MASK
        size = class_granules(size_class) << GRANULE_LOG2
        num_used = slots_in_span(arena, span)
        add_word(out, USAGE_SLAB_FREE_BYTES, (class_slots(size_class) - num_used) * size)
        slot = 0
        while slot < num_used:
            usage_of_slot(arena, (span << SLOT_LOG2) + slot, size, num_ranks, out)
            slot += 1


@device_function
def usage_of_slot(arena, number, size, num_ranks, out):
    """`heap_usage` of one slot of `size` bytes."""
    record = record_address(arena, number)
    state = load_acquire_i64(record, RECORD_STATE)
    owner = owner_rank(state)
    if owner < 0 or owner >= num_ranks:
        owner = num_ranks
    row = out + (USAGE_OWNERS + owner * OWNER_WORDS) * 8
    if state & RECORD_STATE_MASK == SLOT_LIVE:
        add_word(row, OWNER_COUNT, 1)
        add_word(row, OWNER_SLOT_BYTES, size)
        add_word(row, OWNER_ASKED_BYTES, load_i64(record, RECORD_SIZE))
    elif state & RECORD_STATE_MASK == SLOT_CACHED:
        add_word(row, OWNER_CACHED_BYTES, size)
    else:
        add_word(out, USAGE_SLAB_FREE_BYTES, size)


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

    Unused rows are left alone: their address is 0 if it was. Returns the slot to go on from, or END_OF_SLOTS.
    """
    num_spans = load_i64(arena, ARENA_NUM_BLOCKS) << SPANS_LOG2
    span = number >> SLOT_LOG2
    slot = number & SPAN_SLOT_MASK
    written = 0
    while span < num_spans:
        num_used = slots_in_span(arena, span)
        while slot < num_used:
            number = (span << SLOT_LOG2) + slot
            state = load_acquire_i64(record_address(arena, number), RECORD_STATE)
            if state & RECORD_STATE_MASK == SLOT_LIVE:
                if written == capacity:
                    return number
                write_row(arena, number, state, rows + written * LIST_WORDS * 8)
                written += 1
            slot += 1
        slot = 0
        span += 1
    return END_OF_SLOTS


@device_function
def write_row(arena, number, state, row):
    """One live allocation, whose record has `state`, as LIST_WORDS words at `row`."""
    store_i64(row, LIST_ADDRESS, slot_address(arena, number))
    store_i64(row, LIST_BYTES, load_i64(record_address(arena, number), RECORD_SIZE))
    store_i64(row, LIST_OWNER, owner_rank(state))
    store_i64(row, LIST_GENERATION, generation_in(state))
    store_i64(row, LIST_REFERENCES, num_references(arena, number) if state & RECORD_SHARED else 1)
