"""Where the rows of a table lie: row r at home r % num_homes, the (r // num_homes)-th there.

A table that lies whole at one home has one. What is looked up afterwards takes addresses, so that it need not know how
the rows are spread.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..data.copy import copy
from ..data.gather import prefetch_range
from ..intrinsics.scalar import load_i64, store_i64
from ..intrinsics.system import copy_bytes

NOTHING_BAD = -1
ROWS_AHEAD = 24  # in which a copy asks for rows; at most 2 KiB of each
AHEAD_BYTES = 2048
NEVER = 1 << 62


@device_function
def place_rows(addresses, ids, num_ids, num_rows, bases, num_homes, row_bytes):
    """Fill `addresses` with where each row lies; the position of the first id that is none of [0, num_rows), or
    NOTHING_BAD. `bases` are the addresses of the homes' rows."""
    i = 0
    if num_homes == 1:
        base = load_i64(bases, 0)
        while i < num_ids:
            row = load_i64(ids, i)
            if row < 0 or row >= num_rows:
                return i
            store_i64(addresses, i, base + row * row_bytes)
            i += 1
        return NOTHING_BAD
    if num_homes & (num_homes - 1) == 0:  # a division takes five times as long
        shift = 0
        while 1 << shift < num_homes:
            shift += 1
        while i < num_ids:
            row = load_i64(ids, i)
            if row < 0 or row >= num_rows:
                return i
            store_i64(addresses, i, load_i64(bases, row & (num_homes - 1)) + (row >> shift) * row_bytes)
            i += 1
        return NOTHING_BAD
    while i < num_ids:
        row = load_i64(ids, i)
        if row < 0 or row >= num_rows:
            return i
        slot = row // num_homes
        store_i64(addresses, i, load_i64(bases, row - slot * num_homes) + slot * row_bytes)
        i += 1
    return NOTHING_BAD


@device_function
def copy_rows(dst, dst_stride, addresses, num_rows, row_bytes):
    """Copy the rows at `addresses` to dst, `dst_stride` bytes apart."""
    row = 0
    while row < num_rows:
        if row + ROWS_AHEAD < num_rows:
            prefetch_range(load_i64(addresses, row + ROWS_AHEAD), min(row_bytes, AHEAD_BYTES))
        copy_bytes(dst + row * dst_stride, load_i64(addresses, row), row_bytes)
        row += 1


@device_function
def store_rows(addresses, src, src_stride, num_rows, row_bytes):
    """Copy rows of src, `src_stride` bytes apart, to `addresses`, the later over the earlier."""
    row = 0
    while row < num_rows:
        copy(load_i64(addresses, row), src + row * src_stride, row_bytes, NEVER, 0, 1)
        row += 1


cpu_place_rows = cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)")(place_rows)
cpu_copy_rows = cpu_kernel("void(int64, int64, int64, int64, int64)")(copy_rows)
cpu_store_rows = cpu_kernel("void(int64, int64, int64, int64, int64)")(store_rows)
