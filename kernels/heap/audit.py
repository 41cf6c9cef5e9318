"""A check of all that an arena promises about itself, for tests, soaks and `umem verify`."""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_acquire_i64, load_i64, load_u32
from .bitmap import bitmap_address, open_blocks, partial_blocks
from .blocks import aligned_runs, record_address
from .classes import class_order, class_slots
from .layout import (
    ARENA_BLOCKS,
    ARENA_FREE_SPANS,
    ARENA_NUM_BLOCKS,
    ARENA_NUM_FREE,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_CONTINUED,
    BLOCK_CUT,
    BLOCK_FREE,
    BLOCK_LARGE,
    CLASS_MASK,
    CLASS_SHIFT,
    FREE_BLOCKS,
    KIND_MASK,
    NUM_ATTRIBUTES,
    PLACE_SHIFT,
    POOL_ATTRIBUTE_MASK,
    POOL_ATTRIBUTE_SHIFT,
    POOL_MASK,
    RECORD_SHARED,
    RECORD_STATE,
    RECORD_STATE_MASK,
    SLAB_SLOTS,
    SLAB_TOUCHED,
    SLAB_USED,
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_FREE,
    SPANS_LOG2,
    SPANS_PER_BLOCK,
)
from .record import first_holder
from .slab import slab_address, slot_bits_address

# --- what `heap_audit` finds: problem << 32 | block
FREE_BIT_DIFFERS = 1
FREE_COUNT_DIFFERS = 2
FREE_IS_NOT_CLEAN = 3
CONTINUATION_DIFFERS = 4
LARGE_IS_NOT_LIVE = 5
FREE_SPANS_DIFFER = 6
OPEN_BIT_DIFFERS = 7
SPAN_HAS_NO_SLAB = 8
SLAB_COUNT_DIFFERS = 9
SLOT_BIT_DIFFERS = 10
PARTIAL_BIT_MISSING = 11
HOLDERS_WITHOUT_MARK = 12

NO_ATTRIBUTE_AT_ALL = -1


@device_function
def bit_of(words, index):
    """Bit `index` of a bitmap."""
    return (load_u32(words, index >> 5) >> (index & 31)) & 1


@device_function
def heap_audit(arena):
    """0 where derived tables agree with truth and every invariant holds, else problem << 32 | block.

    For an arena that no rank changes meanwhile.
    """
    blocks = load_i64(arena, ARENA_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    free_bits = bitmap_address(arena, FREE_BLOCKS)
    num_free = 0
    large = 0  # the large run begun last
    block = 0
    while block < num_blocks:
        word = load_acquire_i64(blocks, block)
        kind = word & KIND_MASK
        is_free = 1 if kind == BLOCK_FREE else 0
        num_free += is_free
        if kind == BLOCK_LARGE:
            large = block
        problem = 0
        if bit_of(free_bits, block) != is_free:
            problem = FREE_BIT_DIFFERS
        elif kind == BLOCK_CUT:
            problem = audit_cut(arena, block, word)
        elif audit_open(arena, block, NO_ATTRIBUTE_AT_ALL, 0) != 0:
            problem = OPEN_BIT_DIFFERS
        elif kind == BLOCK_LARGE:
            problem = audit_large(arena, block)
        elif kind == BLOCK_CONTINUED:
            problem = audit_continued(arena, block, large)
        else:
            problem = audit_free_spans(arena, block)
        if problem != 0:
            return (problem << 32) | block
        block += 1
    if num_free != load_i64(arena, ARENA_NUM_FREE):
        return FREE_COUNT_DIFFERS << 32
    return 0


@device_function
def audit_large(arena, block):
    """large_is_committed."""
    number = block << (SPANS_LOG2 + SLOT_LOG2)
    if load_i64(record_address(arena, number), RECORD_STATE) & RECORD_STATE_MASK != SLOT_LIVE:
        return LARGE_IS_NOT_LIVE
    return audit_slot(arena, number)


@device_function
def audit_continued(arena, block, large):
    """A continued block belongs to the large run that was begun last."""
    blocks = load_i64(arena, ARENA_BLOCKS)
    word = load_i64(blocks, large)
    if load_i64(blocks, block) >> ARGUMENT_SHIFT != large or word & KIND_MASK != BLOCK_LARGE:
        return CONTINUATION_DIFFERS
    return 0 if large + (word >> ARGUMENT_SHIFT) > block else CONTINUATION_DIFFERS


@device_function
def audit_open(arena, block, attribute, free):
    """The bitmaps of open blocks show `free` for its own attribute and nothing for others."""
    other = 0
    while other < NUM_ATTRIBUTES:
        order = 0
        while order < SPANS_LOG2:
            expected = 1 if other == attribute and aligned_runs(free, order) != 0 else 0
            if bit_of(bitmap_address(arena, open_blocks(other, order)), block) != expected:
                return OPEN_BIT_DIFFERS
            order += 1
        other += 1
    return 0


@device_function
def audit_free_spans(arena, block):
    """free_is_clean for all spans of a free block."""
    span = block << SPANS_LOG2
    end = span + SPANS_PER_BLOCK
    while span < end:
        if load_i64(load_i64(arena, ARENA_SPANS), span) != SPAN_FREE or audit_free_span(arena, span) != 0:
            return FREE_IS_NOT_CLEAN
        span += 1
    return 0


@device_function
def audit_free_span(arena, span):
    """free_is_clean, as far as the last slab there was touched."""
    touched = load_i64(slab_address(arena, span), SLAB_TOUCHED)
    slot = 0
    while slot < touched or slot == 0:
        state = load_i64(record_address(arena, (span << SLOT_LOG2) + slot), RECORD_STATE)
        if state & RECORD_STATE_MASK != SLOT_FREE:
            return FREE_IS_NOT_CLEAN
        slot += 1
    return 0


@device_function
def audit_cut(arena, block, block_word):
    """Every span of a cut block is free or a slab's, as derived tables say."""
    spans = load_i64(arena, ARENA_SPANS)
    first = block << SPANS_LOG2
    attribute = (block_word >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
    free = 0
    place = 0
    while place < SPANS_PER_BLOCK:
        word = load_i64(spans, first + place)
        if word == SPAN_FREE:
            if audit_free_span(arena, first + place) != 0:
                return FREE_IS_NOT_CLEAN
            free |= 1 << place
            place += 1
            continue
        if word & POOL_MASK & ~KIND_MASK != block_word & POOL_MASK & ~KIND_MASK:
            return SPAN_HAS_NO_SLAB
        num_spans = 1 << class_order((word >> CLASS_SHIFT) & CLASS_MASK)
        step = 0
        while step < num_spans:
            # Adding, so that a first word whose place is not 0 differs too.
            if load_i64(spans, first + place + step) != (word & ~(31 << PLACE_SHIFT)) + (step << PLACE_SHIFT):
                return SPAN_HAS_NO_SLAB
            step += 1
        problem = audit_slab(arena, first + place, word, attribute)
        if problem != 0:
            return problem
        place += num_spans
    if free != load_u32(load_i64(arena, ARENA_FREE_SPANS), block):
        return FREE_SPANS_DIFFER
    return audit_open(arena, block, attribute, free)


@device_function
def audit_slab(arena, span, word, attribute):
    """Counts and bits of a slab against its records."""
    slab = slab_address(arena, span)
    size_class = (word >> CLASS_SHIFT) & CLASS_MASK
    num_slots = class_slots(size_class)
    touched = load_i64(slab, SLAB_TOUCHED)
    used = 0
    slot = 0
    while slot < num_slots:
        is_free = 1
        if slot < touched:
            number = (span << SLOT_LOG2) + slot
            problem = audit_slot(arena, number)
            if problem != 0:
                return problem
            if load_i64(record_address(arena, number), RECORD_STATE) & RECORD_STATE_MASK != SLOT_FREE:
                is_free = 0
                used += 1
        if bit_of(slot_bits_address(arena, span), slot) != is_free:
            return SLOT_BIT_DIFFERS
        slot += 1
    if used != load_i64(slab, SLAB_USED) or num_slots != load_i64(slab, SLAB_SLOTS) or used == 0:
        return SLAB_COUNT_DIFFERS
    partial = bitmap_address(arena, partial_blocks(attribute, size_class))
    if used < num_slots and bit_of(partial, span >> SPANS_LOG2) == 0:
        return PARTIAL_BIT_MISSING
    return 0


@device_function
def audit_slot(arena, number):
    """Holder bits stand only where the record is live and marked as shared."""
    state = load_i64(record_address(arena, number), RECORD_STATE)
    if state & RECORD_STATE_MASK == SLOT_LIVE and state & RECORD_SHARED:
        return 0
    return HOLDERS_WITHOUT_MARK if first_holder(arena, number) >= 0 else 0
