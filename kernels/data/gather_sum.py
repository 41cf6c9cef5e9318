"""Pooled look-ups: sums of the table rows that each bag of indices names ("embedding bag").

The sum of a bag stays in registers, a block of columns at a time. A width known only at run time costs 0.6
times the speed, so a block of 1, 2, 4, 8 and 16 vectors is a function of its own; all have one source, for
a block of 2n vectors is a pair of blocks of n. Random rows are latency-bound: each block prefetches its
columns of rows ahead, by a distance that depends on its width.

Rows are float32, float16 or bfloat16 and are added as float32, in the order of the indices. Indices are
int64 and not checked here (gather.check_indices does). Accesses are plain; nothing may overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..build.compile import cpu_kernel, device_function
from ..build.variants import group_of, variant
from ..intrinsics import vector
from ..intrinsics.scalar import load_f32 as load
from ..intrinsics.scalar import load_i64, store_f32
from ..intrinsics.system import lane_index, num_lanes, prefetch
from ..intrinsics.vector import vec_add_f32, vec_lanes_f32, vec_store_f32, vec_zero_f32
from ..intrinsics.vector import vec_load_f32 as vec_load
from .copy import CORE_LINE_BYTES

# Rows ahead, by vectors in a block; measured best for 64-byte vectors on Zen 5.
_PREFETCH_ROWS = {1: 64, 2: 64, 4: 48, 8: 20, 16: 10}

# What follows is written for float32 rows and a block of one vector; `_blocks` makes the others of it.
ELEMENT_BYTES = 4
NUM_VECTORS = 1
DISTANCE = _PREFETCH_ROWS[1]


@device_function
def zero():
    """The sum of no rows: a block of one vector."""
    return vec_zero_f32()


def add(total, row, column):
    """`total` plus the columns from `column` on of the row at `row`."""
    return vec_add_f32(total, vec_load(row, column))


@device_function
def put(dst, column, total):
    """Write a block."""
    vec_store_f32(dst, column, total)


def zero_pair():
    """A block twice as wide."""
    return zero(), zero()


def add_pair(total, row, column):
    """Both halves."""
    return add(total[0], row, column), add(total[1], row, column + NUM_VECTORS * vec_lanes_f32())


def put_pair(dst, column, total):
    """Both halves."""
    put(dst, column, total[0])
    put(dst, column + NUM_VECTORS * vec_lanes_f32(), total[1])


def sum_block(dst, table, indices, begin, end, last, row_bytes, column):
    """One block of columns of one bag: indices [begin, end), prefetched on until `last`."""
    total = zero()
    i = begin
    while i < end:
        if i + DISTANCE < last:
            row = table + load_i64(indices, i + DISTANCE) * row_bytes
            byte = 0
            while byte < NUM_VECTORS * vec_lanes_f32() * ELEMENT_BYTES:
                prefetch(row + column * ELEMENT_BYTES + byte)
                byte += CORE_LINE_BYTES
        total = add(total, table + load_i64(indices, i) * row_bytes, column)
        i += 1
    put(dst, column, total)


@device_function
def sum_column(dst, table, indices, begin, end, row_bytes, column):
    """One column of one bag."""
    total = np.float32(0)
    i = begin
    while i < end:
        total += load(table + load_i64(indices, i) * row_bytes, column)
        i += 1
    store_f32(dst, column, total)


def _blocks(row_type: str, vector_load: Any, element_bytes: int) -> dict[str, Any]:
    """sum_block_1, ..., sum_block_16 for rows of one type."""
    blocks = {}
    zeros, adds, puts = zero, variant(add, f"add_1_{row_type}", vec_load=vector_load), put
    for width, distance in _PREFETCH_ROWS.items():
        if width > 1:
            half = width // 2
            zeros = variant(zero_pair, f"zero_{width}", zero=zeros)
            adds = variant(add_pair, f"add_{width}_{row_type}", add=adds, NUM_VECTORS=half)
            puts = variant(put_pair, f"put_{width}", put=puts, NUM_VECTORS=half)
        blocks[f"sum_block_{width}"] = variant(
            sum_block,
            f"sum_block_{width}_{row_type}",
            zero=zeros,
            add=adds,
            put=puts,
            NUM_VECTORS=width,
            DISTANCE=distance,
            ELEMENT_BYTES=element_bytes,
        )
    return blocks


_F32_BLOCKS = _blocks("f32", vec_load, ELEMENT_BYTES)
sum_block_1, sum_block_2, sum_block_4, sum_block_8, sum_block_16 = _F32_BLOCKS.values()


def gather_sum(dst, table, indices, offsets, num_bags, num_columns, row_bytes, lane, num_lanes):
    """Row b of `dst` (float32) = sum of the rows that indices[offsets[b] : offsets[b + 1]] names, in order.

    Rows of the table start `row_bytes` apart and their first `num_columns` elements count; rows of `dst`
    are `num_columns` float32 back to back. `offsets` are num_bags + 1 ascending int64. Lanes: bags in turn.
    Writes dst only, zeros for an empty bag. Any alignment to the element. Twin: reference.gather_sum.
    """
    lanes = vec_lanes_f32()
    last = load_i64(offsets, num_bags)
    bag = lane
    while bag < num_bags:
        begin, end = load_i64(offsets, bag), load_i64(offsets, bag + 1)
        out = dst + bag * num_columns * 4
        column = 0
        while column + 16 * lanes <= num_columns:
            sum_block_16(out, table, indices, begin, end, last, row_bytes, column)
            column += 16 * lanes
        if column + 8 * lanes <= num_columns:
            sum_block_8(out, table, indices, begin, end, last, row_bytes, column)
            column += 8 * lanes
        if column + 4 * lanes <= num_columns:
            sum_block_4(out, table, indices, begin, end, last, row_bytes, column)
            column += 4 * lanes
        if column + 2 * lanes <= num_columns:
            sum_block_2(out, table, indices, begin, end, last, row_bytes, column)
            column += 2 * lanes
        if column + lanes <= num_columns:
            sum_block_1(out, table, indices, begin, end, last, row_bytes, column)
            column += lanes
        if column < num_columns and num_columns >= lanes:
            # The last vector again from further left: it overlaps, and writes the same sums.
            sum_block_1(out, table, indices, begin, end, last, row_bytes, num_columns - lanes)
            column = num_columns
        while column < num_columns:
            sum_column(out, table, indices, begin, end, row_bytes, column)
            column += 1
        bag += num_lanes


def gather_sum_spread(dst, table, indices, offsets, num_bags, num_columns, row_bytes, lane, num_lanes):
    """`gather_sum` with the columns of all bags dealt out to the lanes one by one."""
    item = lane
    while item < num_bags * num_columns:
        bag = item // num_columns
        begin, end = load_i64(offsets, bag), load_i64(offsets, bag + 1)
        column = item - bag * num_columns
        sum_column(dst + bag * num_columns * 4, table, indices, begin, end, row_bytes, column)
        item += num_lanes


def one_lane(dst, table, indices, offsets, num_bags, num_columns, row_bytes):
    """`gather_sum` by one lane."""
    gather_sum(dst, table, indices, offsets, num_bags, num_columns, row_bytes, 0, 1)


def all_lanes(dst, table, indices, offsets, num_bags, num_columns, row_bytes):
    """`gather_sum` by all lanes of a launch."""
    lane = lane_index()
    gather_sum_spread(dst, table, indices, offsets, num_bags, num_columns, row_bytes, lane, num_lanes())


ROW_TYPES = ("f32", "f16", "bf16")


def _of_type(row_type: str) -> dict[str, Any]:
    """gather_sum, one_lane and all_lanes for rows of one type."""
    form = "f32" if row_type == "f32" else f"{row_type}_f32"
    scalar = load if row_type == "f32" else getattr(vector, f"load_{form}")
    blocks = _blocks(row_type, getattr(vector, f"vec_load_{form}"), 4 if row_type == "f32" else 2)
    column = variant(sum_column, f"sum_column_{row_type}", load=scalar)
    bags = variant(gather_sum, f"gather_sum_{row_type}", sum_column=column, **blocks)
    spread = variant(gather_sum_spread, f"gather_sum_spread_{row_type}", sum_column=column)
    return {
        "gather_sum": bags,
        "one_lane": variant(one_lane, f"one_lane_{row_type}", gather_sum=bags),
        "all_lanes": variant(all_lanes, f"all_lanes_{row_type}", gather_sum_spread=spread),
    }


_FORMS = {row_type: _of_type(row_type) for row_type in ROW_TYPES}
GATHER_SUM_SIGNATURE = "void(int64, int64, int64, int64, int64, int64, int64)"
GATHER_SUM = {row_type: forms["gather_sum"] for row_type, forms in _FORMS.items()}
CPU_GATHER_SUM = {
    row_type: cpu_kernel(GATHER_SUM_SIGNATURE, group=group_of(row_type))(forms["one_lane"])
    for row_type, forms in _FORMS.items()
}
CUDA_GATHER_SUM = {row_type: forms["all_lanes"] for row_type, forms in _FORMS.items()}
