"""Slabs: slots of one size class, moved between the core and magazines under the arena's lock.

Between any two stores, beside the invariants of blocks.py:

    slot_has_one_place     a slot is free in the core, in one magazine, or allocated, as its record says
    untouched_is_free      records of a slab from SLAB_TOUCHED on are SLOT_FREE
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, load_u32, store_i64, store_release_i64, store_u32
from ..intrinsics.system import count_trailing_zeros_u64
from .bitmap import ALL_BITS, NO_BIT, clear_bit, first_bit, partial_blocks, set_bit
from .blocks import generation_in, give_spans, later, record_address, take_spans
from .classes import class_granules, class_order, class_slots, reciprocal
from .layout import (
    ARENA_GENERATION,
    ARENA_SLABS,
    ARENA_SLOT_BITS,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    CLASS_MASK,
    CLASS_SHIFT,
    ENTRY_NUMBER_SHIFT,
    GENERATION_MASK,
    GENERATION_SHIFT,
    PLACE_MASK,
    PLACE_SHIFT,
    POOL_ATTRIBUTE_MASK,
    POOL_ATTRIBUTE_SHIFT,
    POOL_MASK,
    RECORD_BYTES,
    RECORD_STATE,
    SLAB_HINT,
    SLAB_SLOTS,
    SLAB_TOUCHED,
    SLAB_USED,
    SLAB_WORDS,
    SLOT_BIT_WORDS,
    SLOT_FREE,
    SLOT_LOG2,
    SPAN_SLAB,
    SPAN_SLOT_MASK,
    SPANS_LOG2,
    SPANS_PER_BLOCK,
)

FIRST_SPAN_MASK = POOL_MASK | CLASS_MASK << CLASS_SHIFT | PLACE_MASK << PLACE_SHIFT


@device_function
def slab_address(arena, span):
    """Address of the row of the slab whose first span is `span`."""
    return load_i64(arena, ARENA_SLABS) + span * (SLAB_WORDS * 8)


@device_function
def slot_bits_address(arena, span):
    """Address of the slot bits of a slab: a set bit is a free slot."""
    return load_i64(arena, ARENA_SLOT_BITS) + span * (SLOT_BIT_WORDS * 4)


@device_function
def fill_slot_bits(bits, first, num_slots):
    """Mark the slots from `first` (a multiple of 32) to `num_slots` as free and clear nothing."""
    word = first >> 5
    while word < num_slots >> 5:
        store_u32(bits, word, ALL_BITS)
        word += 1
    if num_slots & 31 and word == num_slots >> 5:
        store_u32(bits, word, (1 << (num_slots & 31)) - 1)


@device_function
def make_slab(arena, pool, size_class):
    """A new slab of `size_class` in the lowest block that has room; its first span, or NO_BIT."""
    word = pool | SPAN_SLAB | (size_class << CLASS_SHIFT) | (reciprocal(size_class) << ARGUMENT_SHIFT)
    span = take_spans(arena, pool, class_order(size_class), word)
    if span != NO_BIT:
        slab = slab_address(arena, span)
        num_slots = class_slots(size_class)
        fill_slot_bits(slot_bits_address(arena, span), 0, num_slots)
        store_i64(slab, SLAB_USED, 0)
        store_i64(slab, SLAB_TOUCHED, 0)
        store_i64(slab, SLAB_HINT, 0)
        store_i64(slab, SLAB_SLOTS, num_slots)
        attribute = (pool >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
        set_bit(arena, partial_blocks(attribute, size_class), span >> SPANS_LOG2)
    return span


@device_function
def find_partial(arena, pool, size_class):
    """First span of the lowest slab of a class with a free slot, or NO_BIT."""
    bitmap = partial_blocks((pool >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK, size_class)
    wanted = pool | SPAN_SLAB | (size_class << CLASS_SHIFT)
    spans = load_i64(arena, ARENA_SPANS)
    while True:
        block = first_bit(arena, bitmap)
        if block == NO_BIT:
            return NO_BIT
        span = block << SPANS_LOG2
        end = span + SPANS_PER_BLOCK
        while span < end:
            if load_i64(spans, span) & FIRST_SPAN_MASK == wanted:
                slab = slab_address(arena, span)
                if load_i64(slab, SLAB_USED) < load_i64(slab, SLAB_SLOTS):
                    return span
            span += 1
        clear_bit(arena, bitmap, block)


@device_function
def take_slots(arena, pool, size_class, cached, dst, wanted):
    """Move up to `wanted` free slots into a magazine; returns how many there were.

    Their records become `cached` and their entries are written to the words at `dst`. Slots come from the
    lowest slab that has one, then from a new slab.
    """
    taken = 0
    while taken < wanted:
        span = find_partial(arena, pool, size_class)
        if span == NO_BIT:
            span = make_slab(arena, pool, size_class)
            if span == NO_BIT:
                return taken
        taken += take_from_slab(arena, span, size_class, cached, dst + taken * 8, wanted - taken)
    return taken


@device_function
def take_from_slab(arena, span, size_class, cached, dst, wanted):
    """`take_slots` from one slab, lowest slot first."""
    slab = slab_address(arena, span)
    bits_of_slab = slot_bits_address(arena, span)
    first = span << SLOT_LOG2
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
            # Before the records: a rebuild must not take a slot beyond this mark for a free one.
            store_release_i64(slab, SLAB_TOUCHED, (word + 1) << 5)
        while bits != 0 and taken < wanted:
            slot = (word << 5) + count_trailing_zeros_u64(bits)
            bits &= bits - 1
            record = record_address(arena, first + slot)
            store_release_i64(record, RECORD_STATE, state_to_come(arena, record) | cached)
            store_i64(dst, taken, ((first + slot) << ENTRY_NUMBER_SHIFT) | (slot * granules))
            taken += 1
        store_u32(bits_of_slab, word, bits)
    store_i64(slab, SLAB_HINT, word)
    store_i64(slab, SLAB_USED, load_i64(slab, SLAB_USED) + taken)
    return taken


@device_function
def set_state(record, bits):
    """Give a record another state and owner, keeping its generation."""
    store_release_i64(record, RECORD_STATE, (load_i64(record, RECORD_STATE) & GENERATION_MASK) | bits)


@device_function
def free_record(arena, number):
    """Mark slot `number` as free in the core."""
    set_state(record_address(arena, number), SLOT_FREE)


@device_function
def state_to_come(arena, record):
    """The generation bits of a record that is about to be used, behind all that stood at its address."""
    generation = later(generation_in(load_i64(record, RECORD_STATE)), load_i64(arena, ARENA_GENERATION))
    return generation << GENERATION_SHIFT


@device_function
def retire_slab(arena, span):
    """Remember the latest generation of the slab's slots; before it goes."""
    slab = slab_address(arena, span)
    latest = load_i64(arena, ARENA_GENERATION)
    record = record_address(arena, span << SLOT_LOG2)
    end = record + RECORD_BYTES * min(load_i64(slab, SLAB_TOUCHED), load_i64(slab, SLAB_SLOTS))
    while record < end:
        latest = later(latest, generation_in(load_i64(record, RECORD_STATE)))
        record += RECORD_BYTES
    store_i64(arena, ARENA_GENERATION, latest)


@device_function
def give_slot(arena, number):
    """Return a slot whose record has just become SLOT_FREE; the spans of an empty slab go back."""
    span = number >> SLOT_LOG2
    slot = number & SPAN_SLOT_MASK
    slab = slab_address(arena, span)
    bits_of_slab = slot_bits_address(arena, span)
    word = slot >> 5
    store_u32(bits_of_slab, word, load_u32(bits_of_slab, word) | (1 << (slot & 31)))
    if word < load_i64(slab, SLAB_HINT):
        store_i64(slab, SLAB_HINT, word)
    used = load_i64(slab, SLAB_USED)
    store_i64(slab, SLAB_USED, used - 1)
    if used == 1 or used == load_i64(slab, SLAB_SLOTS):
        span_word = load_i64(load_i64(arena, ARENA_SPANS), span)
        size_class = (span_word >> CLASS_SHIFT) & CLASS_MASK
        if used == 1:
            retire_slab(arena, span)
            give_spans(arena, span, class_order(size_class))
        else:
            attribute = (span_word >> POOL_ATTRIBUTE_SHIFT) & POOL_ATTRIBUTE_MASK
            set_bit(arena, partial_blocks(attribute, size_class), span >> SPANS_LOG2)
