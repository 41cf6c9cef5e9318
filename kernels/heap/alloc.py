"""alloc and free of an arena: the fast paths over a magazine, and the ways through the core.

    control     this rank's control page
    arena       metadata of the arena
    magazine    an open magazine on that arena, best of the calling thread

Each call either has its whole effect or none, and returns an address, OK, or a status: AGAIN where the
lock was held by others for a slice (call again), INTERRUPTED when the space closes, negative for errors.
Addresses are above all of these. Figures, paired with glibc malloc + free: bench/, case alloc.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..intrinsics.scalar import compare_swap_i64, load_acquire_i64, load_i64, load_relaxed_i64, store_i64
from ..page.control import CONTROL_EPOCH
from .bitmap import NO_BIT
from .blocks import give_blocks, record_address, take_blocks
from .classes import RECIPROCAL_BITS, REMAINDER_MASK, aligned_class, class_of
from .layout import (
    ARENA_SCRATCH,
    ARENA_SPANS,
    ARGUMENT_SHIFT,
    BLOCK_BYTES,
    BLOCK_LOG2,
    CLASS_MASK,
    CLASS_SHIFT,
    ENTRY_NUMBER_SHIFT,
    GENERATION_MASK,
    GRANULE_BYTES,
    GRANULE_LOG2,
    KIND_MASK,
    MAGAZINE_ARENA,
    MAGAZINE_BASE,
    MAGAZINE_CACHED,
    MAGAZINE_COUNTS,
    MAGAZINE_HOLDER,
    MAGAZINE_LIMITS,
    MAGAZINE_LIVE,
    MAGAZINE_NUM_BYTES,
    MAGAZINE_POOL,
    MAGAZINE_RECORDS,
    MAGAZINE_SPANS,
    MAX_ALIGNMENT,
    MAX_SLOT_BYTES,
    PLACE_MASK,
    PLACE_SHIFT,
    POOL_MASK,
    RECORD_BYTES,
    RECORD_SHARED,
    RECORD_STATE,
    RECORD_STATE_MASK,
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_LOG2,
    SPAN_SLAB,
    SPANS_LOG2,
)
from .lock import acquire_arena, heap_reclaim_dead, release_arena
from .magazine import flush, flush_all, grow_row, hand_out, is_own_magazine, refill, row_address
from .record import add_holder, drop_holder, find_start, give_slot_to, owner_bits, owner_rank
from .slab import give_slot, take_slots


@inlined_function
def heap_alloc(control, arena, magazine, num_bytes, align):
    """Allocate `num_bytes` at a multiple of `align` (a power of two up to 2 MiB; at least 64 is given).

    NO_MEMORY where no room is left, BAD_REQUEST for a negative size or another alignment.
    """
    address = pop_slot(magazine, num_bytes, align)
    if address != 0:
        return address
    return alloc_slow(control, magazine, num_bytes, align, load_i64(magazine, MAGAZINE_LIVE))


@inlined_function
def pop_slot(magazine, num_bytes, align):
    """The fast path: an address from the magazine's stock; 0 where `alloc_slow` is needed."""
    if 0 < num_bytes <= MAX_SLOT_BYTES and align <= GRANULE_BYTES and is_own_magazine(magazine):
        size_class = class_of(num_bytes)
        count = load_i64(magazine, MAGAZINE_COUNTS + size_class) - 1
        if count >= 0:
            entry = load_i64(row_address(magazine, size_class), count)
            store_i64(magazine, MAGAZINE_COUNTS + size_class, count)
            return hand_out(magazine, entry, num_bytes, load_i64(magazine, MAGAZINE_LIVE))
    return 0


@device_function
def heap_alloc_for(control, arena, magazine, owner, num_bytes, align):
    """`heap_alloc` in the name of rank `owner`: what an agent does for a rank that cannot map the arena."""
    return alloc_slow(control, magazine, num_bytes, align, owner_bits(owner) | SLOT_LIVE)


@device_function
def alloc_slow(control, magazine, num_bytes, align, live):
    """Everything but the pop: checks, refill, other threads, large sizes.

    Where there is no room it tries again with what this thread's magazine holds, and once more with what
    dead ranks held.
    """
    if num_bytes < 0 or align <= 0 or align > MAX_ALIGNMENT or align & (align - 1) != 0:
        return status.BAD_REQUEST
    if num_bytes == 0:
        num_bytes = 1
    size_class = aligned_class(num_bytes, align)
    address = alloc_once(control, magazine, size_class, num_bytes, live)
    if address == status.NO_MEMORY and is_own_magazine(magazine):
        code = flush_all(control, magazine)
        if code != status.OK:
            return code
        address = alloc_once(control, magazine, size_class, num_bytes, live)
    if address == status.NO_MEMORY and load_relaxed_i64(control, CONTROL_EPOCH) != 0:
        arena, holder = load_i64(magazine, MAGAZINE_ARENA), load_i64(magazine, MAGAZINE_HOLDER)
        code = heap_reclaim_dead(control, arena, holder, arena + (ARENA_SCRATCH + 1) * 8)
        if code != status.OK:
            return code
        address = alloc_once(control, magazine, size_class, num_bytes, live)
    return address


@device_function
def alloc_once(control, magazine, size_class, num_bytes, live):
    """One attempt: from the thread's magazine, as one slot of the core, or as whole blocks."""
    if size_class >= 0 and is_own_magazine(magazine):
        if load_i64(magazine, MAGAZINE_COUNTS + size_class) == 0:
            code = refill(control, magazine, size_class)
            if code != status.OK:
                return code
        count = load_i64(magazine, MAGAZINE_COUNTS + size_class) - 1
        entry = load_i64(row_address(magazine, size_class), count)
        store_i64(magazine, MAGAZINE_COUNTS + size_class, count)
        return hand_out(magazine, entry, num_bytes, live)
    arena = load_i64(magazine, MAGAZINE_ARENA)
    code = acquire_arena(control, arena, load_i64(magazine, MAGAZINE_HOLDER))
    if code != status.OK:
        return code
    pool = load_i64(magazine, MAGAZINE_POOL) & ~KIND_MASK
    address = status.NO_MEMORY
    if size_class >= 0:
        cached = load_i64(magazine, MAGAZINE_CACHED)
        if take_slots(arena, pool, size_class, cached, arena + ARENA_SCRATCH * 8, 1) == 1:
            address = hand_out(magazine, load_i64(arena, ARENA_SCRATCH), num_bytes, live)
    else:
        num_blocks = (num_bytes + (BLOCK_BYTES - 1)) >> BLOCK_LOG2
        first = take_blocks(arena, pool, num_blocks, num_bytes, live)
        if first != NO_BIT:
            address = load_i64(magazine, MAGAZINE_BASE) + (first << BLOCK_LOG2)
    release_arena(arena)
    return address


@inlined_function
def heap_free(control, arena, magazine, address):
    """Drop this rank's reference to the allocation at `address`; the last one frees it.

    An allocation that only its owner holds may be freed by any rank. OUT_OF_RANGE, NOT_ALLOCATED,
    INTERIOR, DOUBLE_FREE and NOT_HELD say what is wrong with the address; then nothing has changed.
    """
    if push_slot(magazine, address):
        return status.OK
    rank = owner_rank(load_i64(magazine, MAGAZINE_LIVE))
    return free_slow(control, magazine, rank, address)


@inlined_function
def push_slot(magazine, address):
    """The fast path: 1 where the allocation went to the magazine's stock, 0 where `free_slow` is needed."""
    offset = address - load_i64(magazine, MAGAZINE_BASE)
    if 0 <= offset < load_i64(magazine, MAGAZINE_NUM_BYTES) and is_own_magazine(magazine):
        span = offset >> SPAN_LOG2
        word = load_relaxed_i64(load_i64(magazine, MAGAZINE_SPANS), span)
        if word & POOL_MASK == load_i64(magazine, MAGAZINE_POOL):
            factor = word >> ARGUMENT_SHIFT
            first_span = span - ((word >> PLACE_SHIFT) & PLACE_MASK)
            granule = (offset - (first_span << SPAN_LOG2)) >> GRANULE_LOG2
            product = granule * factor
            number = (first_span << SLOT_LOG2) + (product >> RECIPROCAL_BITS)
            record = load_i64(magazine, MAGAZINE_RECORDS) + number * RECORD_BYTES
            state = load_relaxed_i64(record, RECORD_STATE)
            is_start = offset & (GRANULE_BYTES - 1) == 0 and product & REMAINDER_MASK < factor
            size_class = (word >> CLASS_SHIFT) & CLASS_MASK
            count = load_i64(magazine, MAGAZINE_COUNTS + size_class)
            if (
                is_start
                and state & (RECORD_STATE_MASK | RECORD_SHARED) == SLOT_LIVE
                and count < load_i64(magazine, MAGAZINE_LIMITS + size_class)
            ):
                cached = (state & GENERATION_MASK) | load_i64(magazine, MAGAZINE_CACHED)
                # Only one of two that free at once may win; and `reclaim` may be taking it back.
                if compare_swap_i64(record, RECORD_STATE, state, cached) == state:
                    store_i64(
                        row_address(magazine, size_class), count, (number << ENTRY_NUMBER_SHIFT) | granule
                    )
                    store_i64(magazine, MAGAZINE_COUNTS + size_class, count + 1)
                    return 1
    return 0


@device_function
def heap_free_for(control, arena, magazine, rank, address):
    """`heap_free` in the name of `rank`."""
    return free_slow(control, magazine, rank, address)


@device_function
def free_slow(control, magazine, rank, address):
    """Everything but the push: a full row, other threads, large runs, shared slots, wrong addresses."""
    arena = load_i64(magazine, MAGAZINE_ARENA)
    number = find_start(arena, address)
    if number < 0:
        return number
    word = load_acquire_i64(load_i64(arena, ARENA_SPANS), number >> SLOT_LOG2)
    if word & POOL_MASK == load_i64(magazine, MAGAZINE_POOL) and is_own_magazine(magazine):
        size_class = (word >> CLASS_SHIFT) & CLASS_MASK
        limit = load_i64(magazine, MAGAZINE_LIMITS + size_class)
        if load_i64(magazine, MAGAZINE_COUNTS + size_class) >= limit:
            if grow_row(magazine, size_class) and push_slot(magazine, address):
                return status.OK
            code = flush(control, magazine, size_class, limit >> 1)
            if code != status.OK:
                return code
    code = acquire_arena(control, arena, load_i64(magazine, MAGAZINE_HOLDER))
    if code != status.OK:
        return code
    code = free_in_core(arena, number, rank)
    release_arena(arena)
    return code


@device_function
def free_in_core(arena, number, rank):
    """Drop the reference of `rank` to slot `number`, straight to the core; the caller has the lock."""
    record = record_address(arena, number)
    state = load_acquire_i64(record, RECORD_STATE)
    if state & RECORD_STATE_MASK != SLOT_LIVE:
        return status.DOUBLE_FREE  # another rank was faster
    if state & RECORD_SHARED:
        code = drop_holder(arena, number, rank)
        if code <= 0:
            return code
    elif compare_swap_i64(record, RECORD_STATE, state, (state & GENERATION_MASK) | SLOT_FREE) != state:
        return status.DOUBLE_FREE
    if load_i64(load_i64(arena, ARENA_SPANS), number >> SLOT_LOG2) & KIND_MASK == SPAN_SLAB:
        give_slot(arena, number)
    else:
        give_blocks(arena, number >> (SLOT_LOG2 + SPANS_LOG2))
    return status.OK


@device_function
def heap_retain(control, arena, holder, address, rank, generation):
    """Give `rank` a reference to the allocation at `address`, which somebody's reference keeps alive.

    Taking it twice is taking it once. `generation` is checked unless ANY_GENERATION: STALE where another
    allocation has taken the place. `holder` is what the caller writes into locks.
    """
    code = acquire_arena(control, arena, holder)
    if code != status.OK:
        return code
    number = find_start(arena, address)
    code = number if number < 0 else add_holder(arena, number, rank, generation)
    release_arena(arena)
    return code


@device_function
def heap_give(control, arena, holder, address, rank, heir):
    """Make `heir` (a rank, or WORLD_RANK) the owner of the allocation at `address` that `rank` owns."""
    code = acquire_arena(control, arena, holder)
    if code != status.OK:
        return code
    number = find_start(arena, address)
    code = number if number < 0 else give_slot_to(arena, number, rank, heir)
    release_arena(arena)
    return code
