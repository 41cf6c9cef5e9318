"""A trace of allocations, replayed through the interface of torch's allocator by compiled code.

A trace is pairs of words: (slot, bytes) allocates into a slot, (slot, 0) frees it. The loop does what
c10::Allocator::raw_allocate and raw_deallocate do, which are inline functions of torch's header: call
`allocate`, take the pointer out of the DataPtr that it fills; ask `raw_deleter` for a function, call it.
"""

from __future__ import annotations

from umem.kernels import cpu_kernel, device_function
from umem.kernels.intrinsics.scalar import load_i64, load_u8, store_i64, store_u8
from umem.kernels.intrinsics.system import call_handler

DATA_WORDS = 8  # more than a DataPtr has
ALLOCATE, RAW_DELETER = 2, 4  # slots of an allocator's table of functions; see umem/torch/c10.py
_LINE_BYTES = 64  # the alignment of blocks
MARK_MASK = 255


@device_function
def raw_allocate(allocator, data, num_bytes):
    """Allocate `num_bytes` by an allocator; returns the address. The words at `data` have room for a DataPtr."""
    call_handler(load_i64(load_i64(allocator, 0), ALLOCATE), data, allocator, num_bytes)
    return load_i64(data, 0)


@device_function
def raw_deallocate(allocator, address):
    """Free a block of `raw_allocate`."""
    delete = call_handler(load_i64(load_i64(allocator, 0), RAW_DELETER), allocator, 0, 0)
    call_handler(delete, address, 0, 0)


@cpu_kernel("void(int64, int64, int64, int64, int64, int64)")
def replay(allocator, trace, num_entries, live, data, num_rounds):
    """Replay the whole trace `num_rounds` times. `live` has a word a slot."""
    while num_rounds > 0:
        entry = 0
        while entry < num_entries:
            slot, num_bytes = load_i64(trace, 2 * entry), load_i64(trace, 2 * entry + 1)
            if num_bytes != 0:
                store_i64(live, slot, raw_allocate(allocator, data, num_bytes))
            else:
                raw_deallocate(allocator, load_i64(live, slot))
            entry += 1
        num_rounds -= 1


@device_function
def mark(address, num_bytes, value):
    """Write `value` to a byte of every line of a block, and to its last."""
    offset = 0
    while offset < num_bytes:
        store_u8(address, offset, value)
        offset += _LINE_BYTES
    store_u8(address, num_bytes - 1, value)


@device_function
def is_marked(address, num_bytes, value):
    """1 where a block still holds the bytes that `mark` wrote."""
    offset = 0
    while offset < num_bytes:
        if load_u8(address, offset) != value:
            return 0
        offset += _LINE_BYTES
    return 1 if load_u8(address, num_bytes - 1) == value else 0


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def checked_replay(allocator, trace, num_entries, live, sizes, data, low, high):
    """Replay the trace once, with every block marked when it is allocated and checked when it is freed.

    Returns the errors: blocks outside of [low, high), misaligned, or overwritten by another. `sizes` has a
    word a slot.
    """
    errors = 0
    entry = 0
    while entry < num_entries:
        slot, num_bytes = load_i64(trace, 2 * entry), load_i64(trace, 2 * entry + 1)
        if num_bytes != 0:
            address = raw_allocate(allocator, data, num_bytes)
            is_right = low <= address and address + num_bytes <= high and address % _LINE_BYTES == 0
            errors += 1 - is_right
            store_i64(live, slot, address)
            store_i64(sizes, slot, num_bytes)
            mark(address, num_bytes, slot & MARK_MASK)
        else:
            address = load_i64(live, slot)
            errors += 1 - is_marked(address, load_i64(sizes, slot), slot & MARK_MASK)
            raw_deallocate(allocator, address)
        entry += 1
    return errors
