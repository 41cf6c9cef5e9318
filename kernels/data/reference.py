"""The data kernels in NumPy: the twin that each kernel is tested against.

A twin takes arrays where its kernel takes addresses, and returns what the kernel writes. Sums go in the
kernel's order, so that floats agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def copy_2d(
    dst: np.ndarray, dst_stride: int, src: np.ndarray, src_stride: int, num_rows: int, row_bytes: int
) -> np.ndarray:
    """`dst` (bytes) after row r of `row_bytes` at src[r * src_stride] went to dst[r * dst_stride]."""
    result = dst.copy()
    for row in range(num_rows):
        result[row * dst_stride :][:row_bytes] = src[row * src_stride :][:row_bytes]
    return result


def gather_rows(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Rows of `table` in the order of `indices`."""
    return table[indices]


def gather_sum(table: np.ndarray, indices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Row b is the sum, in order, of the rows in indices[offsets[b] : offsets[b + 1]]; zeros for none."""
    sums = np.zeros((len(offsets) - 1, table.shape[1]), np.float32)
    for bag, (begin, end) in enumerate(pairwise(offsets)):
        for index in indices[begin:end]:
            sums[bag] += table[index].astype(np.float32)
    return sums


def reduce(sources: Sequence[np.ndarray]) -> np.ndarray:
    """Element-wise sum of the sources, from the first to the last."""
    total = sources[0].copy()
    for source in sources[1:]:
        total += source
    return total


def bf16_from_f32(values: np.ndarray) -> np.ndarray:
    """Bits (uint16) of float32 `values` rounded to bfloat16, nearest even; no NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def f32_from_bf16(bits: np.ndarray) -> np.ndarray:
    """float32 values of bfloat16 bits (uint16)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def chase(successors: np.ndarray, start: int, num_steps: int) -> int:
    """Index reached from `start` after `num_steps` steps of i -> successors[i]."""
    for _ in range(num_steps):
        start = int(successors[start])
    return start


def single_cycle(num_items: int, spacing: int = 1, seed: int = 0) -> np.ndarray:
    """Successor table of one cycle through `num_items` places, `spacing` int64 apart, in random order.

    For pointer chases: with spacing 8 every step loads another 64-byte line, and none comes twice before
    all came once.
    """
    order = np.random.default_rng(seed).permutation(num_items) * spacing
    successors = np.zeros(num_items * spacing, np.int64)
    successors[order] = np.roll(order, -1)
    return successors
