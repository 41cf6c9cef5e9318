"""Bitmaps over the blocks of an arena: free ones, those with room for a slab, those with slabs of a class.

Changed and read under the arena's lock only. Every search starts at the lowest address, so that what
lives gathers there and blocks above empty out. A hint a bitmap keeps searches short: a full scan of 1 TiB
of memory reads 64 KiB. Words have 32 bits: in int64 arithmetic they are never negative, so that a kernel
means the same compiled and as plain Python.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, load_u32, store_i64, store_u32
from ..intrinsics.system import count_trailing_zeros_u64
from .layout import (
    ARENA_BITMAP_WORDS,
    ARENA_BITMAPS,
    ARENA_HINTS,
    ARENA_NUM_BLOCKS,
    ARENA_NUM_FREE,
    FREE_BLOCKS,
    NUM_CLASSES,
    NUM_OPEN,
    SPANS_LOG2,
)

NO_BIT = -1
ALL_BITS = 0xFFFF_FFFF  # a word of bits


@device_function
def open_blocks(attribute, order):
    """Bitmap of the cut blocks of an attribute with 1 << order free spans in an aligned row, not all 32."""
    return 1 + attribute * SPANS_LOG2 + order


@device_function
def partial_blocks(attribute, size_class):
    """Bitmap of the blocks with a slab of a class that has a free slot, and of some that had one."""
    return 1 + NUM_OPEN + attribute * NUM_CLASSES + size_class


@device_function
def bitmap_address(arena, bitmap):
    """Address of the words of `bitmap`."""
    return load_i64(arena, ARENA_BITMAPS) + bitmap * load_i64(arena, ARENA_BITMAP_WORDS) * 4


@device_function
def set_bit(arena, bitmap, block):
    """Enter `block` into `bitmap`."""
    words = bitmap_address(arena, bitmap)
    word = block >> 5
    store_u32(words, word, load_u32(words, word) | (1 << (block & 31)))
    if word < load_i64(arena, ARENA_HINTS + bitmap):
        store_i64(arena, ARENA_HINTS + bitmap, word)


@device_function
def clear_bit(arena, bitmap, block):
    """Take `block` out of `bitmap`."""
    words = bitmap_address(arena, bitmap)
    word = block >> 5
    store_u32(words, word, load_u32(words, word) & ~(1 << (block & 31)))


@device_function
def first_bit(arena, bitmap):
    """Lowest block in `bitmap`, or NO_BIT."""
    words = bitmap_address(arena, bitmap)
    num_words = load_i64(arena, ARENA_BITMAP_WORDS)
    word = load_i64(arena, ARENA_HINTS + bitmap)
    while word < num_words and load_u32(words, word) == 0:
        word += 1
    store_i64(arena, ARENA_HINTS + bitmap, word)
    if word == num_words:
        return NO_BIT
    return (word << 5) + count_trailing_zeros_u64(load_u32(words, word))


@device_function
def run_start(words, block, num_blocks):
    """First free block at or after `block`; `num_blocks` where there is none."""
    while block < num_blocks:
        bits = load_u32(words, block >> 5) & (-1 << (block & 31))
        if bits != 0:
            return (block & -32) + count_trailing_zeros_u64(bits)
        block = (block & -32) + 32
    return num_blocks


@device_function
def run_end(words, block, num_blocks):
    """First block at or after `block` that is not free; `num_blocks` where there is none."""
    while block < num_blocks:
        bits = (~load_u32(words, block >> 5) & ALL_BITS) >> (block & 31)
        if bits != 0:
            end = block + count_trailing_zeros_u64(bits)
            return end if end < num_blocks else num_blocks
        block = (block & -32) + 32
    return num_blocks


@device_function
def find_run(arena, length):
    """First block of `length` free ones in a row, or NO_BIT: the upper end of the smallest run that suffices.

    Best fit keeps large runs whole; the upper end leaves the low blocks to slabs.
    """
    if load_i64(arena, ARENA_NUM_FREE) < length:
        return NO_BIT
    words = bitmap_address(arena, FREE_BLOCKS)
    num_blocks = load_i64(arena, ARENA_NUM_BLOCKS)
    best_end = NO_BIT
    best_length = num_blocks + 1
    start = run_start(words, load_i64(arena, ARENA_HINTS + FREE_BLOCKS) << 5, num_blocks)
    while start < num_blocks:
        end = run_end(words, start, num_blocks)
        if length <= end - start < best_length:
            best_end = end
            best_length = end - start
            if best_length == length:
                break
        start = run_start(words, end, num_blocks)
    if best_end == NO_BIT:
        return NO_BIT
    return best_end - length
