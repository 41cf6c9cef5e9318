"""Magazines: a thread's own stock of free slots, a row a size class, above the shared core.

alloc pops an entry and free pushes one, without the lock. An empty row is refilled and a full one half
emptied under it, half a row at a time, so the lock is taken once in about thirty operations of small
slots. Rows of large slots are short, but one that runs both full and empty grows, within what the magazine
may hold: training allocates and frees the same large sizes at every step. Records say who has a slot (see
slab.slot_has_one_place); the rows themselves are derived, and nobody reads the rows of a dead rank.

A magazine belongs to one thread. Any other thread that is given it, an agent's or a deleter's, goes to
the core instead: correct, under the lock. A process forked from a rank is a second user of the same
thread identity and must not allocate or free (umem/heap/heap.py refuses).
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, store_i64, store_release_i64
from ..intrinsics.system import thread_pointer
from .classes import class_granules
from .layout import (
    ARENA_BASE,
    ARENA_NUM_BLOCKS,
    ARENA_RECORDS,
    ARENA_SPANS,
    BLOCK_LOG2,
    ENTRY_GRANULE_MASK,
    ENTRY_NUMBER_SHIFT,
    GENERATION_MASK,
    GENERATION_ONE,
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
    MAGAZINE_NUM_FLUSHES,
    MAGAZINE_NUM_GROWTHS,
    MAGAZINE_NUM_REFILLS,
    MAGAZINE_POOL,
    MAGAZINE_RECORDS,
    MAGAZINE_ROW_ENTRIES,
    MAGAZINE_ROW_LOG2,
    MAGAZINE_ROWS,
    MAGAZINE_SPANS,
    MAGAZINE_SPARE,
    MAGAZINE_THREAD,
    MAX_GROWTH_BYTES,
    MAX_STOCK_BYTES,
    NUM_CLASSES,
    RECORD_BYTES,
    RECORD_SIZE,
    RECORD_STATE,
    SLOT_CACHED,
    SLOT_LIVE,
    SLOT_LOG2,
    SPAN_LOG2,
    SPAN_SLAB,
)
from .lock import acquire_arena, release_arena
from .record import owner_bits
from .slab import free_record, give_slot, take_slots

STOCK_SHARE_LOG2 = 10  # a row begins with at most 1/1024 of its arena, a magazine with 1/20
GROWTH_SHARE_LOG2 = 5  # and grows by at most 1/32


@device_function
def open_magazine(magazine, arena, holder, rank, pool):
    """Make the memory at `magazine` a magazine of the calling thread of `rank` on `arena`, empty.

    `holder` is what it writes into locks, `pool` the attribute and line bits of the blocks that it draws
    from.
    """
    open_guest(magazine, arena, holder, rank, pool)
    store_i64(magazine, MAGAZINE_THREAD, thread_pointer())


@device_function
def open_guest(magazine, arena, holder, rank, pool):
    """`open_magazine` for no thread: all its work goes through the core, so that it needs no rows."""
    num_bytes = load_i64(arena, ARENA_NUM_BLOCKS) << BLOCK_LOG2
    store_i64(magazine, MAGAZINE_ARENA, arena)
    store_i64(magazine, MAGAZINE_BASE, load_i64(arena, ARENA_BASE))
    store_i64(magazine, MAGAZINE_NUM_BYTES, num_bytes)
    store_i64(magazine, MAGAZINE_SPANS, load_i64(arena, ARENA_SPANS))
    store_i64(magazine, MAGAZINE_RECORDS, load_i64(arena, ARENA_RECORDS))
    store_i64(magazine, MAGAZINE_POOL, pool | SPAN_SLAB)
    store_i64(magazine, MAGAZINE_LIVE, owner_bits(rank) | SLOT_LIVE)
    store_i64(magazine, MAGAZINE_CACHED, owner_bits(rank) | SLOT_CACHED)
    store_i64(magazine, MAGAZINE_NUM_REFILLS, 0)
    store_i64(magazine, MAGAZINE_NUM_FLUSHES, 0)
    store_i64(magazine, MAGAZINE_NUM_GROWTHS, 0)
    spare_bytes = num_bytes >> GROWTH_SHARE_LOG2
    if spare_bytes > MAX_GROWTH_BYTES:
        spare_bytes = MAX_GROWTH_BYTES
    store_i64(magazine, MAGAZINE_SPARE, spare_bytes)
    stock_bytes = num_bytes >> STOCK_SHARE_LOG2
    if stock_bytes > MAX_STOCK_BYTES:
        stock_bytes = MAX_STOCK_BYTES
    size_class = 0
    while size_class < NUM_CLASSES:
        limit = stock_bytes // (class_granules(size_class) << GRANULE_LOG2)
        if limit > MAGAZINE_ROW_ENTRIES:
            limit = MAGAZINE_ROW_ENTRIES
        store_i64(magazine, MAGAZINE_LIMITS + size_class, limit)
        store_i64(magazine, MAGAZINE_COUNTS + size_class, 0)
        size_class += 1
    store_i64(magazine, MAGAZINE_THREAD, 0)
    store_i64(magazine, MAGAZINE_HOLDER, holder)


@device_function
def adopt_magazine(magazine):
    """Make a magazine the calling thread's: its own has ended."""
    store_i64(magazine, MAGAZINE_THREAD, thread_pointer())


@device_function
def row_address(magazine, size_class):
    """Address of the entries of a class."""
    return magazine + (MAGAZINE_ROWS + (size_class << MAGAZINE_ROW_LOG2)) * 8


@device_function
def hand_out(magazine, entry, num_bytes, live):
    """Turn a slot of this magazine into an allocation of the owner in `live`; its address."""
    record = load_i64(magazine, MAGAZINE_RECORDS) + (entry >> ENTRY_NUMBER_SHIFT) * RECORD_BYTES
    state = load_i64(record, RECORD_STATE)
    store_i64(record, RECORD_SIZE, num_bytes)
    store_release_i64(record, RECORD_STATE, ((state & GENERATION_MASK) + GENERATION_ONE) | live)
    first_span = entry >> (ENTRY_NUMBER_SHIFT + SLOT_LOG2)
    offset = (first_span << SPAN_LOG2) + ((entry & ENTRY_GRANULE_MASK) << GRANULE_LOG2)
    return load_i64(magazine, MAGAZINE_BASE) + offset


@device_function
def refill(control, magazine, size_class):
    """Half a row of slots from the core. OK, NO_MEMORY, or why there was no lock."""
    arena = load_i64(magazine, MAGAZINE_ARENA)
    wanted = load_i64(magazine, MAGAZINE_LIMITS + size_class) >> 1
    if wanted == 0:
        wanted = 1
    row = row_address(magazine, size_class)
    code = acquire_arena(control, arena, load_i64(magazine, MAGAZINE_HOLDER))
    if code != status.OK:
        return code
    pool = load_i64(magazine, MAGAZINE_POOL) & ~KIND_MASK
    taken = take_slots(arena, pool, size_class, load_i64(magazine, MAGAZINE_CACHED), row, wanted)
    release_arena(arena)
    store_i64(magazine, MAGAZINE_COUNTS + size_class, taken)
    store_i64(magazine, MAGAZINE_NUM_REFILLS, load_i64(magazine, MAGAZINE_NUM_REFILLS) + 1)
    return status.OK if taken > 0 else status.NO_MEMORY


@device_function
def grow_row(magazine, size_class):
    """Let the row of a class hold twice as much, or as much as the magazine can spare; 1 where it holds more now.

    There has to be a refill for each growth: a thread that only frees what others allocate keeps little.
    """
    num_growths = load_i64(magazine, MAGAZINE_NUM_GROWTHS)
    if num_growths >= load_i64(magazine, MAGAZINE_NUM_REFILLS):
        return 0
    limit = load_i64(magazine, MAGAZINE_LIMITS + size_class)
    slot_bytes = class_granules(size_class) << GRANULE_LOG2
    more = limit if limit > 0 else 1
    if more > MAGAZINE_ROW_ENTRIES - limit:
        more = MAGAZINE_ROW_ENTRIES - limit
    spare_bytes = load_i64(magazine, MAGAZINE_SPARE)
    if more * slot_bytes > spare_bytes:
        more = spare_bytes // slot_bytes
    if more <= 0:
        return 0
    store_i64(magazine, MAGAZINE_LIMITS + size_class, limit + more)
    store_i64(magazine, MAGAZINE_SPARE, spare_bytes - more * slot_bytes)
    store_i64(magazine, MAGAZINE_NUM_GROWTHS, num_growths + 1)
    return 1


@device_function
def flush(control, magazine, size_class, kept):
    """Return all but the `kept` newest entries of a row to the core. OK, or why there was no lock."""
    count = load_i64(magazine, MAGAZINE_COUNTS + size_class)
    given = count - kept
    if given <= 0:
        return status.OK
    arena = load_i64(magazine, MAGAZINE_ARENA)
    row = row_address(magazine, size_class)
    code = acquire_arena(control, arena, load_i64(magazine, MAGAZINE_HOLDER))
    if code != status.OK:
        return code
    item = 0
    while item < given:
        number = load_i64(row, item) >> ENTRY_NUMBER_SHIFT
        free_record(arena, number)
        give_slot(arena, number)
        item += 1
    release_arena(arena)
    # The oldest went: what was freed last is still in the caches.
    item = 0
    while item < kept:
        store_i64(row, item, load_i64(row, given + item))
        item += 1
    store_i64(magazine, MAGAZINE_COUNTS + size_class, kept)
    store_i64(magazine, MAGAZINE_NUM_FLUSHES, load_i64(magazine, MAGAZINE_NUM_FLUSHES) + 1)
    return status.OK


@device_function
def flush_all(control, magazine):
    """Return every entry to the core. OK, or why there was no lock: then some are left."""
    size_class = 0
    while size_class < NUM_CLASSES:
        code = flush(control, magazine, size_class, 0)
        if code != status.OK:
            return code
        size_class += 1
    return status.OK


@device_function
def is_own_magazine(magazine):
    """1 where the calling thread is the magazine's."""
    return 1 if load_i64(magazine, MAGAZINE_THREAD) == thread_pointer() else 0
