"""How much metadata an arena needs, and how it begins."""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import store_i64, store_release_i64
from .bitmap import set_bit
from .layout import (
    ARENA_BASE,
    ARENA_BITMAP_WORDS,
    ARENA_BITMAPS,
    ARENA_BLOCKS,
    ARENA_DIRECTORY,
    ARENA_FREE_SPANS,
    ARENA_HEADER_BYTES,
    ARENA_HOLDER_WORDS,
    ARENA_HOLDERS,
    ARENA_MAGIC,
    ARENA_MAGIC_VALUE,
    ARENA_NUM_BLOCKS,
    ARENA_NUM_FREE,
    ARENA_RECORDS,
    ARENA_SLABS,
    ARENA_SLOT_BITS,
    ARENA_SPANS,
    BLOCK_LOG2,
    FREE_BLOCKS,
    NUM_BITMAPS,
    RECORD_BYTES,
    SLAB_WORDS,
    SLOT_BIT_WORDS,
    SLOT_LOG2,
    SPANS_LOG2,
)

_PAGE_BYTES = 4096


@device_function
def words_of_bits(num_bits):
    """u32 words that have `num_bits`."""
    return (num_bits + 31) >> 5


@device_function
def place_table(arena, word, offset, num_bytes, is_writing):
    """Put a table at `offset` and its address into header word `word`; the offset of the next table."""
    if is_writing:
        store_i64(arena, word, arena + offset)
    return (offset + num_bytes + (_PAGE_BYTES - 1)) & -_PAGE_BYTES


@device_function
def place_tables(arena, num_blocks, num_ranks, is_writing):
    """Lay out the tables of an arena one after the other; bytes of metadata in all."""
    num_spans = num_blocks << SPANS_LOG2
    num_slots = num_spans << SLOT_LOG2
    bitmap_bytes = words_of_bits(num_blocks) * 4
    end = ARENA_HEADER_BYTES
    end = place_table(arena, ARENA_BLOCKS, end, num_blocks * 8, is_writing)
    end = place_table(arena, ARENA_DIRECTORY, end, num_blocks * 8, is_writing)
    end = place_table(arena, ARENA_SPANS, end, num_spans * 8, is_writing)
    end = place_table(arena, ARENA_FREE_SPANS, end, num_blocks * 4, is_writing)
    end = place_table(arena, ARENA_SLABS, end, num_spans * SLAB_WORDS * 8, is_writing)
    end = place_table(arena, ARENA_BITMAPS, end, NUM_BITMAPS * bitmap_bytes, is_writing)
    end = place_table(arena, ARENA_SLOT_BITS, end, num_spans * SLOT_BIT_WORDS * 4, is_writing)
    end = place_table(arena, ARENA_RECORDS, end, num_slots * RECORD_BYTES, is_writing)
    return place_table(arena, ARENA_HOLDERS, end, num_slots * words_of_bits(num_ranks) * 4, is_writing)


def arena_bytes(num_bytes: int, num_ranks: int) -> int:
    """Bytes of metadata for an arena of `num_bytes`: 5/16 of it up to 32 ranks, nearly all sparse."""
    return int(place_tables(0, num_bytes >> BLOCK_LOG2, num_ranks, 0))


@device_function
def init_arena(arena, base, num_bytes, num_ranks):
    """Make the zeroed metadata at `arena` an arena of [base, base + num_bytes), all free.

    `base` is a multiple of the block size (alignment is relative to it); a last part of a block is unused.
    """
    num_blocks = num_bytes >> BLOCK_LOG2
    place_tables(arena, num_blocks, num_ranks, 1)
    store_i64(arena, ARENA_BASE, base)
    store_i64(arena, ARENA_NUM_BLOCKS, num_blocks)
    store_i64(arena, ARENA_HOLDER_WORDS, words_of_bits(num_ranks))
    store_i64(arena, ARENA_BITMAP_WORDS, words_of_bits(num_blocks))
    block = 0
    while block < num_blocks:
        set_bit(arena, FREE_BLOCKS, block)
        block += 1
    store_i64(arena, ARENA_NUM_FREE, num_blocks)
    store_release_i64(arena, ARENA_MAGIC, ARENA_MAGIC_VALUE)
