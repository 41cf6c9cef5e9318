"""The table of this process's uses of allocations that it sent to or received from others.

In the heap a rank holds an allocation once, however many storages it has of it. A process counts them here:
{address -> storages}, in private memory. Only shared addresses are in the table, so that it is empty, and
costs a load, where nothing is shared. A spin lock guards it; it is held while the last use gives up the
rank's reference, so that a new arrival comes either before, and keeps it, or after, and takes a new one.
"""

from __future__ import annotations

from ..kernels import cpu_kernel, device_function, status
from ..kernels.heap.alloc import heap_retain
from ..kernels.intrinsics.scalar import compare_swap_i64, load_i64, store_i64, store_release_i64
from ..kernels.intrinsics.system import pause
from .layout import PAGE_NUM_SHARED, PAGE_USES, PAGE_USES_LOCK, PAGE_USES_LOG2

NOT_SHARED = -1  # of `drop_use`: the address is not in the table
STILL_USED = 1
LAST_USE = 0  # the address has left the table; its lock is still held

ENTRY_ADDRESS, ENTRY_COUNT, ENTRY_WORDS = 0, 1, 2
ENTRY_BYTES = ENTRY_WORDS * 8
HASH_SHIFT = 6  # addresses are multiples of 64
HASH_FACTOR = 0x9E37_79B9  # 2**32 / the golden ratio
HASH_MASK = 0xFFFF_FFFF


@device_function
def acquire_uses(page):
    """Take the table's lock."""
    while compare_swap_i64(page, PAGE_USES_LOCK, 0, 1) != 0:
        pause()


@device_function
def release_uses(page):
    """Let go of the table's lock."""
    store_release_i64(page, PAGE_USES_LOCK, 0)


@device_function
def first_place(page, address):
    """The place in the table where the search for an address begins."""
    mixed = ((address >> HASH_SHIFT) & HASH_MASK) * HASH_FACTOR & HASH_MASK
    return mixed >> (32 - load_i64(page, PAGE_USES_LOG2))


@device_function
def find_entry(page, address):
    """The entry of an address, or the free one where it belongs."""
    mask = (1 << load_i64(page, PAGE_USES_LOG2)) - 1
    place = first_place(page, address)
    while True:
        entry = load_i64(page, PAGE_USES) + place * ENTRY_BYTES
        found = load_i64(entry, ENTRY_ADDRESS)
        if found == address or found == 0:
            return entry
        place = (place + 1) & mask


@device_function
def remove_entry(page, entry):
    """Empty an entry, and move up those behind it that a search would no longer find."""
    table = load_i64(page, PAGE_USES)
    mask = (1 << load_i64(page, PAGE_USES_LOG2)) - 1
    hole = (entry - table) // ENTRY_BYTES
    place = hole
    while True:
        place = (place + 1) & mask
        other = table + place * ENTRY_BYTES
        address = load_i64(other, ENTRY_ADDRESS)
        if address == 0:
            break
        if (place - first_place(page, address)) & mask >= (place - hole) & mask:
            store_i64(table + hole * ENTRY_BYTES, ENTRY_ADDRESS, address)
            store_i64(table + hole * ENTRY_BYTES, ENTRY_COUNT, load_i64(other, ENTRY_COUNT))
            hole = place
    store_i64(table + hole * ENTRY_BYTES, ENTRY_ADDRESS, 0)
    store_i64(page, PAGE_NUM_SHARED, load_i64(page, PAGE_NUM_SHARED) - 1)


@device_function
def drop_use(page, address):
    """Count one storage fewer at `address`: STILL_USED, NOT_SHARED, or LAST_USE, where the caller holds the lock."""
    acquire_uses(page)
    entry = find_entry(page, address)
    count = load_i64(entry, ENTRY_COUNT)
    if load_i64(entry, ENTRY_ADDRESS) == 0:
        release_uses(page)
        return NOT_SHARED
    if count > 1:
        store_i64(entry, ENTRY_COUNT, count - 1)
        release_uses(page)
        return STILL_USED
    remove_entry(page, entry)
    return LAST_USE


@device_function
def insert_use(page, address, is_alive):
    """Count one storage more at `address`; with `is_alive` an entry that exists already counts it. OK, or FULL."""
    entry = find_entry(page, address)
    if load_i64(entry, ENTRY_ADDRESS) == 0:
        used = load_i64(page, PAGE_NUM_SHARED)
        if 2 * (used + 1) > 1 << load_i64(page, PAGE_USES_LOG2):
            return status.FULL
        store_i64(entry, ENTRY_ADDRESS, address)
        store_i64(entry, ENTRY_COUNT, 1)
        store_i64(page, PAGE_NUM_SHARED, used + 1)
    elif not is_alive:
        store_i64(entry, ENTRY_COUNT, load_i64(entry, ENTRY_COUNT) + 1)
    return status.OK


@cpu_kernel("int64(int64, int64)")
def note_use(page, address):
    """Enter a storage that lives here and is about to be sent. OK, or FULL: grow the table and call again."""
    acquire_uses(page)
    code = insert_use(page, address, True)
    release_uses(page)
    return code


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def add_use(page, control, arena, holder, address, rank, generation):
    """Take the rank's reference to `address` for a new storage and count the storage, both or neither.

    OK; FULL: grow the table and call again; AGAIN; the status of `heap_retain` for a wrong or stale address.
    """
    acquire_uses(page)
    if 2 * (load_i64(page, PAGE_NUM_SHARED) + 1) > 1 << load_i64(page, PAGE_USES_LOG2):
        code = status.FULL
    else:
        code = heap_retain(control, arena, holder, address, rank, generation)
    if code == status.OK:
        insert_use(page, address, False)
    release_uses(page)
    return code


@cpu_kernel("int64(int64, int64, int64)")
def move_uses(page, table, table_log2):
    """Move the entries to a larger, empty table; returns the old one's address, which no thread reads any more."""
    acquire_uses(page)
    old, end = load_i64(page, PAGE_USES), 1 << load_i64(page, PAGE_USES_LOG2)
    store_i64(page, PAGE_USES, table)
    store_i64(page, PAGE_USES_LOG2, table_log2)
    place = 0
    while place < end:
        entry = old + place * ENTRY_BYTES
        address = load_i64(entry, ENTRY_ADDRESS)
        if address != 0:
            moved = find_entry(page, address)
            store_i64(moved, ENTRY_ADDRESS, address)
            store_i64(moved, ENTRY_COUNT, load_i64(entry, ENTRY_COUNT))
        place += 1
    release_uses(page)
    return old
