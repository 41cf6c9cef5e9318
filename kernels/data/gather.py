"""Look-ups in tables of rows: copy the rows that indices name.

A table is contiguous in the address space, wherever its rows live: in one segment or striped over many.
Random rows are latency-bound, so their lines are prefetched some rows ahead: a fixed number of bytes in
flight, whatever the row's width. gather_sum.py adds rows instead of copying them.

Indices are int64 and not checked here (see `check_indices`). Accesses are plain; nothing may overlap.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..build.variants import variant
from ..intrinsics.scalar import load_i64, load_u8, store_i64, store_u8
from ..intrinsics.system import copy_bytes, lane_index, num_lanes, prefetch, stream_fence
from ..intrinsics.vector import vec_lanes_i64, vec_load_i64, vec_store_i64
from ..status import OK, OUT_OF_RANGE
from .copy import CORE_LINE_BYTES, copy_unit, stream_vectors, unit_bytes

PREFETCH_BYTES = 10 << 10  # of rows ahead: measured best for rows of 64 B to 2 KiB
MAX_PREFETCH_ROWS = 64
MAX_PREFETCH_ROW_BYTES = 2048  # of one row: the hardware's own prefetcher follows from there
MEMCPY_ROW_BYTES = 2048  # rows from this size on are the C library's


@device_function
def check_indices(indices, num_indices, num_rows):
    """OK where every index is in [0, num_rows), else OUT_OF_RANGE; reads only."""
    num_bad = 0
    i = 0
    while i < num_indices:
        index = load_i64(indices, i)
        num_bad += 1 if index < 0 or index >= num_rows else 0  # no early exit: the loop vectorises
        i += 1
    return OUT_OF_RANGE if num_bad else OK


@device_function
def prefetch_range(address, num_bytes):
    """Ask for the lines of [address, address + num_bytes)."""
    byte = 0
    while byte < num_bytes:
        prefetch(address + byte)
        byte += CORE_LINE_BYTES


@device_function
def copy_row(dst, src, row_bytes):
    """Copy a short row without a call; the last word or vector overlaps the one before it. CPU."""
    vector_bytes = 8 * vec_lanes_i64()
    byte = 0
    if row_bytes >= vector_bytes:
        while byte + vector_bytes <= row_bytes:
            vec_store_i64(dst + byte, 0, vec_load_i64(src + byte, 0))
            byte += vector_bytes
        if byte < row_bytes:
            byte = row_bytes - vector_bytes
            vec_store_i64(dst + byte, 0, vec_load_i64(src + byte, 0))
    elif row_bytes >= 8:
        while byte + 8 <= row_bytes:
            store_i64(dst + byte, 0, load_i64(src + byte, 0))
            byte += 8
        if byte < row_bytes:
            byte = row_bytes - 8
            store_i64(dst + byte, 0, load_i64(src + byte, 0))
    else:
        while byte < row_bytes:
            store_u8(dst, byte, load_u8(src, byte))
            byte += 1


# A row of an exact number of words or vectors: templates of the loops in which no loop over a row is left.
NUM_UNITS = 1


@device_function
def unit_words():
    """int64 in a unit of a row: a vector, or one word where that is the unit."""
    return vec_lanes_i64()


@device_function
def gather_vectors_1(dst, table, indices, num_rows, ahead, lane, num_lanes):
    """`gather_rows` where a row is NUM_UNITS vectors."""
    row_bytes = NUM_UNITS * 8 * unit_words()
    row = lane
    while row < num_rows:
        if row + ahead < num_rows:
            prefetch_range(table + load_i64(indices, row + ahead) * row_bytes, row_bytes)
        target = dst + row * row_bytes
        source = table + load_i64(indices, row) * row_bytes
        word = 0
        while word < NUM_UNITS * unit_words():
            vec_store_i64(target, word, vec_load_i64(source, word))
            word += unit_words()
        row += num_lanes


@device_function
def one_word():
    """`unit_words` of the variants for rows shorter than a vector."""
    return 1


_words = {"unit_words": one_word, "vec_load_i64": load_i64, "vec_store_i64": store_i64}
gather_vectors_2 = variant(gather_vectors_1, "gather_vectors_2", NUM_UNITS=2)
gather_vectors_4 = variant(gather_vectors_1, "gather_vectors_4", NUM_UNITS=4)
gather_words_1 = variant(gather_vectors_1, "gather_words_1", **_words)
gather_words_2 = variant(gather_vectors_1, "gather_words_2", NUM_UNITS=2, **_words)


@device_function
def gather_exact(dst, table, indices, num_rows, row_bytes, ahead, lane, num_lanes):
    """`gather_rows` for the usual short rows; returns 0, with nothing done, for others. CPU."""
    vector_bytes = 8 * vec_lanes_i64()
    if row_bytes == 8:
        gather_words_1(dst, table, indices, num_rows, ahead, lane, num_lanes)
    elif row_bytes == vector_bytes:
        gather_vectors_1(dst, table, indices, num_rows, ahead, lane, num_lanes)
    elif row_bytes == 16:
        gather_words_2(dst, table, indices, num_rows, ahead, lane, num_lanes)
    elif row_bytes == 2 * vector_bytes:
        gather_vectors_2(dst, table, indices, num_rows, ahead, lane, num_lanes)
    elif row_bytes == 4 * vector_bytes:
        gather_vectors_4(dst, table, indices, num_rows, ahead, lane, num_lanes)
    else:
        return 0
    return 1


@device_function
def gather_rows_spread(dst, table, indices, num_rows, row_bytes, lane, num_lanes):
    """`gather_rows` with the words of all rows dealt out to the lanes one by one."""
    size = unit_bytes(dst | table | row_bytes)
    units_per_row = row_bytes // size
    unit = lane
    while unit < num_rows * units_per_row:
        row = unit // units_per_row
        byte = (unit - row * units_per_row) * size
        copy_unit(dst + row * row_bytes + byte, table + load_i64(indices, row) * row_bytes + byte, size)
        unit += num_lanes


@device_function
def gather_rows(dst, table, indices, num_rows, row_bytes, stream_bytes, lane, num_lanes):
    """Row i of `dst` becomes row indices[i] of `table`; rows are `row_bytes` long, in both, back to back.

    Lanes: rows in turn. Writes dst only; from `stream_bytes` on around the caches, where rows are whole
    lines. Any alignment on the CPU. Twin: reference.gather_rows.
    """
    streams = num_rows * row_bytes >= stream_bytes and (dst | row_bytes) & (CORE_LINE_BYTES - 1) == 0
    ahead = max(1, min(MAX_PREFETCH_ROWS, PREFETCH_BYTES // max(row_bytes, 1))) * num_lanes
    prefetch_bytes = min(row_bytes, MAX_PREFETCH_ROW_BYTES)
    if streams == 0 and gather_exact(dst, table, indices, num_rows, row_bytes, ahead, lane, num_lanes):
        return
    row = lane
    while row < num_rows:
        if row + ahead < num_rows:
            prefetch_range(table + load_i64(indices, row + ahead) * row_bytes, prefetch_bytes)
        target = dst + row * row_bytes
        source = table + load_i64(indices, row) * row_bytes
        if streams:
            stream_vectors(target, source, row_bytes // (8 * vec_lanes_i64()), 0, 1)
        elif row_bytes < MEMCPY_ROW_BYTES:
            copy_row(target, source, row_bytes)
        else:
            copy_bytes(target, source, row_bytes)
        row += num_lanes
    if streams:
        stream_fence()


def one_lane(dst, table, indices, num_rows, row_bytes, stream_bytes):
    """`gather_rows` by one lane."""
    gather_rows(dst, table, indices, num_rows, row_bytes, stream_bytes, 0, 1)


def cuda_gather_rows(dst, table, indices, num_rows, row_bytes):
    """`gather_rows` by all lanes of a launch."""
    gather_rows_spread(dst, table, indices, num_rows, row_bytes, lane_index(), num_lanes())


GATHER_ROWS = "void(int64, int64, int64, int64, int64)"
cpu_check_indices = cpu_kernel("int64(int64, int64, int64)")(check_indices)
cpu_gather_rows = cpu_kernel("void(int64, int64, int64, int64, int64, int64)")(one_lane)
