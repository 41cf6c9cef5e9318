"""Pooled look-ups of rows at any addresses: weighted sums, or maxima, of each bag.

As data/gather_sum.py: a bag stays in registers, a block of columns at a time, by one source for blocks of 1 to 16
vectors; each block asks for its columns of rows ahead. Rows are float32, float16, bfloat16, or
bytes behind a scale and an offset; they are combined as float32, in the order given. A weight of 1 gives the bits of
a plain sum. Accesses are plain; nothing may overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..build.compile import cpu_kernel, device_function
from ..build.variants import ON_DEMAND, variant
from ..data.copy import CORE_LINE_BYTES
from ..intrinsics import vector
from ..intrinsics.scalar import load_f32, load_i64, store_f32
from ..intrinsics.scalar import load_f32 as load
from ..intrinsics.system import prefetch
from ..intrinsics.vector import (
    load_u8_f32,
    vec_add_f32,
    vec_fma_f32,
    vec_lanes_f32,
    vec_load_u8_f32,
    vec_max_f32,
    vec_splat_f32,
    vec_store_f32,
    vec_zero_f32,
)
from ..intrinsics.vector import vec_load_f32 as vec_load

# Rows ahead, by vectors in a block: those of gather_sum, which were measured.
ROWS_AHEAD_OF = {1: 64, 2: 64, 4: 48, 8: 20, 16: 10}
LOWEST = np.float32(-np.inf)
QUANTISED_HEADER_BYTES = 8  # of a quantised row: its scale and its offset

# What follows is written for float32 rows and a block of one vector; `_blocks` makes the others of it.
ELEMENT_BYTES = 4
NUM_VECTORS = 1
DISTANCE = ROWS_AHEAD_OF[1]


@device_function
def nothing():
    """What a sum begins with: a block of one vector."""
    return vec_zero_f32()


@device_function
def lowest():
    """What a maximum begins with."""
    return vec_splat_f32(LOWEST)


def add(total, row, column, weight):
    """`total` plus `weight` times the columns from `column` on of the row at `row`."""
    return vec_fma_f32(vec_load(row, column), vec_splat_f32(weight), total)


def add_quantised(total, row, column, weight):
    """`add` for rows of bytes behind a scale and an offset (float32): an element is offset + scale * byte."""
    scale, offset = load_f32(row, 0) * weight, load_f32(row, 1) * weight
    return vec_fma_f32(
        vec_load_u8_f32(row + QUANTISED_HEADER_BYTES, column),
        vec_splat_f32(scale),
        vec_add_f32(total, vec_splat_f32(offset)),
    )


def rise_quantised(total, row, column, weight):
    """`rise` for such rows."""
    byte = vec_load_u8_f32(row + QUANTISED_HEADER_BYTES, column)
    value = vec_fma_f32(byte, vec_splat_f32(load_f32(row, 0)), vec_splat_f32(load_f32(row, 1)))
    return vec_max_f32(value, total)


@device_function
def load_quantised(row, column):
    """One element of such a row."""
    return load_f32(row, 1) + load_f32(row, 0) * load_u8_f32(row + QUANTISED_HEADER_BYTES, column)


def rise(total, row, column, weight):
    """The larger of both, column by column."""
    return vec_max_f32(vec_load(row, column), total)


@device_function
def put(dst, column, total):
    """Write a block."""
    vec_store_f32(dst, column, total)


def begin_pair():
    """A block twice as wide."""
    return nothing(), nothing()


def take_pair(total, row, column, weight):
    """Both halves."""
    return (
        add(total[0], row, column, weight),
        add(total[1], row, column + NUM_VECTORS * vec_lanes_f32(), weight),
    )


def put_pair(dst, column, total):
    """Both halves."""
    put(dst, column, total[0])
    put(dst, column + NUM_VECTORS * vec_lanes_f32(), total[1])


@device_function
def weight_of(weights, i):
    """The weight of a row; 1 where there are none (0)."""
    return load(weights, i) if weights else np.float32(1)


def bag_block(dst, addresses, weights, begin, end, last, column):
    """One block of columns of one bag: rows [begin, end), asked for ahead until `last`."""
    total = nothing()
    i = begin
    while i < end:
        if i + DISTANCE < last:
            row = load_i64(addresses, i + DISTANCE)
            byte = 0
            while byte < NUM_VECTORS * vec_lanes_f32() * ELEMENT_BYTES:
                prefetch(row + column * ELEMENT_BYTES + byte)
                byte += CORE_LINE_BYTES
        total = add(total, load_i64(addresses, i), column, weight_of(weights, i))
        i += 1
    put(dst, column, total)


@device_function
def sum_bag_column(dst, addresses, weights, begin, end, column):
    """One column of one bag."""
    total = np.float32(0)
    i = begin
    while i < end:
        total += load(load_i64(addresses, i), column) * weight_of(weights, i)
        i += 1
    store_f32(dst, column, total)


@device_function
def max_bag_column(dst, addresses, weights, begin, end, column):
    """One column of one bag."""
    total = LOWEST
    i = begin
    while i < end:
        total = max(total, load(load_i64(addresses, i), column))
        i += 1
    store_f32(dst, column, total)


def _blocks(name: str, begin: Any, take: Any, vector_load: Any, element_bytes: int) -> dict[str, Any]:
    """Blocks of all widths; `vector_load` is None where `take` knows its own."""
    blocks = {}
    loads = {} if vector_load is None else {"vec_load": vector_load}
    begins, takes, puts = begin, variant(take, f"{take.__name__}_1_{name}", **loads), put
    for width, distance in ROWS_AHEAD_OF.items():
        if width > 1:
            half = width // 2
            begins = variant(begin_pair, f"begin_{width}_{name}", nothing=begins)
            takes = variant(take_pair, f"take_{width}_{name}", add=takes, NUM_VECTORS=half)
            puts = variant(put_pair, f"put_bag_{width}_{name}", put=puts, NUM_VECTORS=half)
        blocks[f"block_{width}"] = variant(
            bag_block,
            f"bag_block_{width}_{name}",
            nothing=begins,
            add=takes,
            put=puts,
            NUM_VECTORS=width,
            DISTANCE=distance,
            ELEMENT_BYTES=element_bytes,
        )
    return blocks


_FIRST = _blocks("sum_f32", nothing, add, vec_load, ELEMENT_BYTES)
block_1, block_2, block_4, block_8, block_16 = _FIRST.values()
bag_column = sum_bag_column


@device_function
def clear(dst, num_columns):
    """Zeros: an empty bag."""
    column = 0
    while column < num_columns:
        store_f32(dst, column, np.float32(0))
        column += 1


def pool(dst, dst_stride, addresses, weights, offsets, num_bags, num_columns):
    """Row b of `dst` (float32, `dst_stride` bytes apart) = the rows of addresses[offsets[b] : offsets[b + 1]], combined
    in order, each times its weight (float32; 0: none).

    `offsets` are num_bags + 1 ascending int64. Zeros for an empty bag. Twin: tests/worlds/checks_embedding.py.
    """
    lanes = vec_lanes_f32()
    last = load_i64(offsets, num_bags)
    bag = 0
    while bag < num_bags:
        begin, end = load_i64(offsets, bag), load_i64(offsets, bag + 1)
        out = dst + bag * dst_stride
        column = 0
        if begin == end:
            clear(out, num_columns)
            column = num_columns
        while column + 16 * lanes <= num_columns:
            block_16(out, addresses, weights, begin, end, last, column)
            column += 16 * lanes
        if column + 8 * lanes <= num_columns:
            block_8(out, addresses, weights, begin, end, last, column)
            column += 8 * lanes
        if column + 4 * lanes <= num_columns:
            block_4(out, addresses, weights, begin, end, last, column)
            column += 4 * lanes
        if column + 2 * lanes <= num_columns:
            block_2(out, addresses, weights, begin, end, last, column)
            column += 2 * lanes
        if column + lanes <= num_columns:
            block_1(out, addresses, weights, begin, end, last, column)
            column += lanes
        if column < num_columns and num_columns >= lanes:
            # The last vector again from further left: it overlaps, and writes the same.
            block_1(out, addresses, weights, begin, end, last, num_columns - lanes)
            column = num_columns
        while column < num_columns:
            bag_column(out, addresses, weights, begin, end, column)
            column += 1
        bag += 1


QUANTISED = "q8"
ROW_FORMS = {"f32": ("f32", 4), "f16": ("f16_f32", 2), "bf16": ("bf16_f32", 2), QUANTISED: ("", 1)}
POOL_SIGNATURE = "void(int64, int64, int64, int64, int64, int64, int64)"


def _pool_of(mode: str, row_type: str) -> Any:
    form, element_bytes = ROW_FORMS[row_type]
    begin, take, column = (nothing, add, sum_bag_column) if mode == "sum" else (lowest, rise, max_bag_column)
    name = f"{mode}_{row_type}"
    if row_type == QUANTISED:
        take, vector_load, scalar = add_quantised if mode == "sum" else rise_quantised, None, load_quantised
    else:
        vector_load = getattr(vector, f"vec_load_{form}")
        scalar = load if row_type == "f32" else getattr(vector, f"load_{form}")
    blocks = _blocks(name, begin, take, vector_load, element_bytes)
    # The weights are float32 whatever the rows are, so only the rows' load differs.
    columns = variant(
        column, f"{column.__name__}_{row_type}", **({"load": scalar} if row_type != "f32" else {})
    )
    return variant(pool, f"pool_{name}", bag_column=columns, **blocks)


CPU_POOL = {
    (mode, row_type): cpu_kernel(POOL_SIGNATURE, group=ON_DEMAND)(_pool_of(mode, row_type))
    for mode in ("sum", "max")
    for row_type in ROW_FORMS
}
