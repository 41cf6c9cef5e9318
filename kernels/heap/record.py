"""Records: from any address to the allocation that covers it, and the ranks that hold a reference to it.

An allocation has one owner, the rank that asked for it. Other ranks may hold it too: each has one bit, so
taking a reference twice is taking it once, and a rank that dies between any two stores leaves a state that
can be read. The reference count across processes is the owner and the set bits; a process counts its own
references by itself. When the owner lets go, the lowest holder inherits; when the last one lets go, the
slot is free.

`holders` and the RECORD_SHARED mark change under the arena's lock only. A record without that mark is freed
without the lock, by one compare-and-swap, whoever frees it.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    load_u32,
    store_release_i64,
    store_u32,
)
from ..intrinsics.system import count_trailing_zeros_u64
from .blocks import generation_in, record_address
from .classes import RECIPROCAL_BITS, class_granules, class_slots
from .layout import (
    ARENA_BASE,
    ARENA_BLOCKS,
    ARENA_HOLDER_WORDS,
    ARENA_HOLDERS,
    ARENA_NUM_BLOCKS,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_CONTINUED,
    BLOCK_FREE,
    BLOCK_LARGE,
    BLOCK_LOG2,
    CLASS_MASK,
    CLASS_SHIFT,
    GENERATION_MASK,
    GRANULE_LOG2,
    KIND_MASK,
    PLACE_MASK,
    PLACE_SHIFT,
    RECORD_OWNER_MASK,
    RECORD_OWNER_SHIFT,
    RECORD_SHARED,
    RECORD_STATE,
    RECORD_STATE_MASK,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_BYTES,
    SPAN_LOG2,
    SPAN_SLAB,
    SPAN_SLOT_MASK,
    SPANS_LOG2,
    WORLD_OWNER,
)
from .slab import free_record

NO_HOLDER = -1
ANY_GENERATION = -1
WORLD_RANK = WORLD_OWNER - 1  # all ranks, as an owner


@device_function
def find_slot(arena, address):
    """Number of the slot that covers `address`, live or not; OUT_OF_RANGE, or NOT_ALLOCATED between slots."""
    offset = address - load_i64(arena, ARENA_BASE)
    if offset < 0 or offset >= load_i64(arena, ARENA_NUM_BLOCKS) << BLOCK_LOG2:
        return status.OUT_OF_RANGE
    block = offset >> BLOCK_LOG2
    word = load_acquire_i64(load_i64(arena, ARENA_BLOCKS), block)
    kind = word & KIND_MASK
    if kind == BLOCK_FREE:
        return status.NOT_ALLOCATED
    if kind == BLOCK_LARGE:
        return block << (SPANS_LOG2 + SLOT_LOG2)
    if kind == BLOCK_CONTINUED:
        return (word >> ARGUMENT_SHIFT) << (SPANS_LOG2 + SLOT_LOG2)
    span = offset >> SPAN_LOG2
    word = load_acquire_i64(load_i64(arena, ARENA_SPANS), span)
    if word & KIND_MASK != SPAN_SLAB:
        return status.NOT_ALLOCATED
    first_span = span - ((word >> PLACE_SHIFT) & PLACE_MASK)
    granule = (offset - (first_span << SPAN_LOG2)) >> GRANULE_LOG2
    slot = (granule * (word >> ARGUMENT_SHIFT)) >> RECIPROCAL_BITS
    if slot >= class_slots((word >> CLASS_SHIFT) & CLASS_MASK):
        return status.NOT_ALLOCATED  # the end of a slab, where no slot fits
    return (first_span << SLOT_LOG2) + slot


@device_function
def slot_address(arena, number):
    """First address of slot `number` of a slab, or of a large run."""
    span = number >> SLOT_LOG2
    start = load_i64(arena, ARENA_BASE) + (span << SPAN_LOG2)
    word = load_i64(load_i64(arena, ARENA_SPANS), span)
    if word & KIND_MASK == SPAN_SLAB:
        granules = class_granules((word >> CLASS_SHIFT) & CLASS_MASK)
        start += ((number & SPAN_SLOT_MASK) * granules) << GRANULE_LOG2
    return start


@device_function
def find_start(arena, address):
    """Number of the live slot that begins at `address`; else what is wrong with the address.

    OUT_OF_RANGE, NOT_ALLOCATED, INTERIOR, or DOUBLE_FREE where something began there before.
    """
    number = find_slot(arena, address)
    if number == status.NOT_ALLOCATED:
        offset = address - load_i64(arena, ARENA_BASE)
        first = (offset >> SPAN_LOG2) << SLOT_LOG2
        if offset & (SPAN_BYTES - 1) == 0 and generation_of(arena, first) != 0:
            return status.DOUBLE_FREE
        return number
    if number < 0:
        return number
    state = load_acquire_i64(record_address(arena, number), RECORD_STATE)
    is_live = state & RECORD_STATE_MASK == SLOT_LIVE
    if slot_address(arena, number) != address:
        return status.INTERIOR if is_live else status.NOT_ALLOCATED
    if is_live:
        return number
    return status.DOUBLE_FREE if state & GENERATION_MASK != 0 else status.NOT_ALLOCATED


@device_function
def generation_of(arena, number):
    """The generation of slot `number`: 0 where nothing was ever allocated in its place."""
    return generation_in(load_acquire_i64(record_address(arena, number), RECORD_STATE))


@device_function
def owner_bits(rank):
    """`rank` as the owner field of a record."""
    return (rank + 1) << RECORD_OWNER_SHIFT


@device_function
def owner_rank(state):
    """Owner in word 0 of a record; WORLD_RANK stands for all ranks."""
    return ((state >> RECORD_OWNER_SHIFT) & RECORD_OWNER_MASK) - 1


@device_function
def holders_address(arena, number):
    """Address of the holder bits of slot `number`."""
    return load_i64(arena, ARENA_HOLDERS) + number * load_i64(arena, ARENA_HOLDER_WORDS) * 4


@device_function
def first_holder(arena, number):
    """Lowest rank with a holder bit, or NO_HOLDER."""
    holders = holders_address(arena, number)
    num_words = load_i64(arena, ARENA_HOLDER_WORDS)
    word = 0
    while word < num_words:
        bits = load_u32(holders, word)
        if bits != 0:
            return (word << 5) + count_trailing_zeros_u64(bits)
        word += 1
    return NO_HOLDER


@device_function
def holds(arena, number, rank):
    """1 where `rank` has a holder bit, else 0."""
    return (load_u32(holders_address(arena, number), rank >> 5) >> (rank & 31)) & 1


@device_function
def set_holder(arena, number, rank, value):
    """Set (1) or clear (0) the holder bit of `rank`."""
    holders = holders_address(arena, number)
    others = load_u32(holders, rank >> 5) & ~(1 << (rank & 31))
    store_u32(holders, rank >> 5, others | (value << (rank & 31)))


@device_function
def add_holder(arena, number, rank, generation):
    """Give `rank` a reference to a live slot; STALE where its generation is not `generation`.

    The caller has the lock, and somebody's reference keeps the slot live meanwhile.
    """
    if rank < 0 or rank >= load_i64(arena, ARENA_HOLDER_WORDS) << 5:
        return status.BAD_REQUEST
    record = record_address(arena, number)
    while True:
        state = load_acquire_i64(record, RECORD_STATE)
        if state & RECORD_STATE_MASK != SLOT_LIVE:
            return status.DOUBLE_FREE
        if generation != ANY_GENERATION and generation_in(state) != generation:
            return status.STALE
        if owner_rank(state) == rank or owner_rank(state) == WORLD_RANK:
            return status.OK
        # The mark first: a mark without bits is harmless, bits without the mark would be lost.
        if (
            state & RECORD_SHARED
            or compare_swap_i64(record, RECORD_STATE, state, state | RECORD_SHARED) == state
        ):
            set_holder(arena, number, rank, 1)
            return status.OK


@device_function
def give_slot_to(arena, number, rank, heir):
    """Make `heir` the owner of a live slot that `rank` owns; NOT_HELD where another does.

    WORLD_RANK as heir: the slot belongs to all, so that no death takes it back. The caller has the lock.
    """
    record = record_address(arena, number)
    while True:
        state = load_acquire_i64(record, RECORD_STATE)
        if state & RECORD_STATE_MASK != SLOT_LIVE:
            return status.DOUBLE_FREE
        if owner_rank(state) != rank:
            return status.NOT_HELD
        given = (state & ~(RECORD_OWNER_MASK << RECORD_OWNER_SHIFT)) | owner_bits(heir)
        if compare_swap_i64(record, RECORD_STATE, state, given) == state:
            break
    if given & RECORD_SHARED and heir != WORLD_RANK:
        set_holder(arena, number, heir, 0)  # it may have been a holder: an owner needs no bit
        if first_holder(arena, number) == NO_HOLDER:
            store_release_i64(record, RECORD_STATE, given & ~RECORD_SHARED)
    return status.OK


@device_function
def drop_holder(arena, number, rank):
    """Take away the reference of `rank` to a RECORD_SHARED slot; 1 where it was the last and the slot is now free.

    OK where others hold it still, NOT_HELD where `rank` did not. What the world owns is freed by anyone. The
    caller has the lock, and gives a freed slot to the core.
    """
    record = record_address(arena, number)
    state = load_acquire_i64(record, RECORD_STATE)
    if owner_rank(state) == WORLD_RANK:
        while first_holder(arena, number) != NO_HOLDER:
            set_holder(arena, number, first_holder(arena, number), 0)
        free_record(arena, number)
        return 1
    is_holder = holds(arena, number, rank)
    if owner_rank(state) != rank and not is_holder:
        return status.NOT_HELD
    if is_holder:
        set_holder(arena, number, rank, 0)
    heir = first_holder(arena, number)
    if owner_rank(state) == rank:
        if heir == NO_HOLDER:
            free_record(arena, number)
            return 1
        state = (state & GENERATION_MASK) | RECORD_SHARED | owner_bits(heir) | SLOT_LIVE
        store_release_i64(record, RECORD_STATE, state)
        set_holder(arena, number, heir, 0)
        heir = first_holder(arena, number)
    if heir == NO_HOLDER:
        store_release_i64(record, RECORD_STATE, state & ~RECORD_SHARED)
    return status.OK
