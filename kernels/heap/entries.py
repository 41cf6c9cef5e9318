"""The compiled entry points of the heap.

Kernels of users call heap_alloc, heap_free and heap_retain as device functions; Python calls the compiled
forms here. Batches spread the 0.2 us of a call from Python over many allocations.
"""

from __future__ import annotations

from .. import status
from ..build.compile import cpu_kernel, device_function
from ..intrinsics.scalar import load_acquire_i64, load_i64, store_i64
from .alloc import heap_alloc, heap_free, heap_give, heap_retain
from .audit import heap_audit
from .blocks import record_address
from .layout import RECORD_STATE, RECORD_STATE_MASK, SLOT_LIVE
from .lock import heap_reclaim_dead
from .magazine import adopt_magazine, flush_all, is_own_magazine, open_guest, open_magazine
from .record import find_slot
from .setup import init_arena
from .usage import heap_list, heap_usage, write_row


@device_function
def heap_find(arena, address, row):
    """Write the allocation that covers `address` as a row of `heap_list` at `row`; OK, OUT_OF_RANGE or
    NOT_ALLOCATED."""
    number = find_slot(arena, address)
    if number < 0:
        return number
    record = record_address(arena, number)
    state = load_acquire_i64(record, RECORD_STATE)
    if state & RECORD_STATE_MASK != SLOT_LIVE:
        return status.NOT_ALLOCATED
    write_row(arena, number, state, row)
    return status.OK


@device_function
def heap_alloc_batch(control, arena, magazine, num_bytes, align, addresses, first, end):
    """Allocate for the items first to end - 1: sizes from the words at `num_bytes`, results to `addresses`.

    Returns the item to go on from: `end`, or the one whose status (AGAIN, an error) stands at its place.
    """
    item = first
    while item < end:
        address = heap_alloc(control, arena, magazine, load_i64(num_bytes, item), align)
        store_i64(addresses, item, address)
        if address <= status.AGAIN:
            return item
        item += 1
    return end


@device_function
def heap_free_batch(control, arena, magazine, addresses, first, end):
    """Free the addresses first to end - 1, putting 0 into their place.

    Returns the item to go on from: `end`, or the one that failed; `heap_free` tells why.
    """
    item = first
    while item < end:
        if heap_free(control, arena, magazine, load_i64(addresses, item)) != status.OK:
            return item
        store_i64(addresses, item, 0)
        item += 1
    return end


@device_function
def heap_flush(control, magazine):
    """Return the stock of the calling thread's magazine to the core; OK, AGAIN, INTERRUPTED, or BUSY from
    another thread."""
    if not is_own_magazine(magazine):
        return status.BUSY
    return flush_all(control, magazine)


init = cpu_kernel("void(int64, int64, int64, int64)")(init_arena)
open_for_thread = cpu_kernel("void(int64, int64, int64, int64, int64)")(open_magazine)
open_for_nobody = cpu_kernel("void(int64, int64, int64, int64, int64)")(open_guest)
adopt = cpu_kernel("void(int64)")(adopt_magazine)
alloc = cpu_kernel("int64(int64, int64, int64, int64, int64)")(heap_alloc)
free = cpu_kernel("int64(int64, int64, int64, int64)")(heap_free)
alloc_batch = cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")(heap_alloc_batch)
free_batch = cpu_kernel("int64(int64, int64, int64, int64, int64, int64)")(heap_free_batch)
retain = cpu_kernel("int64(int64, int64, int64, int64, int64, int64)")(heap_retain)
give = cpu_kernel("int64(int64, int64, int64, int64, int64, int64)")(heap_give)
flush = cpu_kernel("int64(int64, int64)")(heap_flush)
reclaim_dead = cpu_kernel("int64(int64, int64, int64, int64)")(heap_reclaim_dead)
find = cpu_kernel("int64(int64, int64, int64)")(heap_find)
usage = cpu_kernel("void(int64, int64, int64)")(heap_usage)
list_live = cpu_kernel("int64(int64, int64, int64, int64)")(heap_list)
audit = cpu_kernel("int64(int64)")(heap_audit)
