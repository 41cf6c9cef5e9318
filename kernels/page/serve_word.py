"""One word of memory, for a processor that does not reach it: what a GPU runs for CPUs."""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import (
    compare_swap_i64,
    compare_swap_u32,
    exchange_i64,
    exchange_u32,
    fetch_add_i64,
    fetch_add_u32,
    load_acquire_i64,
    load_acquire_u8,
    load_acquire_u16,
    load_acquire_u32,
    store_release_i64,
    store_release_u8,
    store_release_u16,
    store_release_u32,
)
from . import operations


@device_function
def load_word(pointer, num_bytes):
    """The aligned 1, 2, 4 or 8 bytes at `pointer`, with acquire ordering."""
    if num_bytes == 8:
        return load_acquire_i64(pointer, 0)
    if num_bytes == 4:
        return int(load_acquire_u32(pointer, 0))
    if num_bytes == 2:
        return int(load_acquire_u16(pointer, 0))
    return int(load_acquire_u8(pointer, 0))


@device_function
def store_word(pointer, num_bytes, value):
    """Put the low bytes of `value` at `pointer`, with release ordering."""
    if num_bytes == 8:
        store_release_i64(pointer, 0, value)
    elif num_bytes == 4:
        store_release_u32(pointer, 0, value)
    elif num_bytes == 2:
        store_release_u16(pointer, 0, value)
    else:
        store_release_u8(pointer, 0, value)


@device_function
def update_word(operation, pointer, num_bytes, first, second):
    """One atomic step on an aligned word of 4 or 8 bytes; what stood there."""
    if num_bytes == 8:
        if operation == operations.FETCH_ADD:
            return fetch_add_i64(pointer, 0, first)
        if operation == operations.EXCHANGE:
            return exchange_i64(pointer, 0, first)
        return compare_swap_i64(pointer, 0, first, second)
    if operation == operations.FETCH_ADD:
        return int(fetch_add_u32(pointer, 0, first))
    if operation == operations.EXCHANGE:
        return int(exchange_u32(pointer, 0, first))
    return int(compare_swap_u32(pointer, 0, first, second))


@device_function
def serve_word(operation, pointer, num_bytes, first, second, found):
    """READ, WRITE, FETCH_ADD, EXCHANGE or COMPARE_SWAP on the word at `pointer`; what stood there goes to the word at
    `found`, 0 for WRITE. By one lane."""
    old = 0
    if operation == operations.READ:
        old = load_word(pointer, num_bytes)
    elif operation == operations.WRITE:
        store_word(pointer, num_bytes, first)
    else:
        old = update_word(operation, pointer, num_bytes, first, second)
    store_release_i64(found, 0, old)


SERVE_WORD = "void(int64, int64, int64, int64, int64, int64)"
