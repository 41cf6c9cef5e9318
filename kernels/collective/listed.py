"""Rows copied between listed addresses, in any order: what one member puts to, or takes from, many others.

Accesses are plain; an exchange after the copy publishes it (streamed stores are fenced here). Nothing may overlap.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..data.copy import CORE_LINE_BYTES, MIN_STREAM_ROW_BYTES, stream_vectors
from ..intrinsics.scalar import load_i64
from ..intrinsics.system import copy_bytes, stream_fence
from ..intrinsics.vector import vec_lanes_i64


@device_function
def stream_row(dst, src, row_bytes):
    """Copy a row around the caches, other than its unaligned ends; `stream_fence` orders it."""
    vector_bytes = 8 * vec_lanes_i64()
    head = min(-dst & (CORE_LINE_BYTES - 1), row_bytes)
    num_vectors = (row_bytes - head) // vector_bytes
    tail = head + num_vectors * vector_bytes
    copy_bytes(dst, src, head)
    stream_vectors(dst + head, src + head, num_vectors, 0, 1)
    copy_bytes(dst + tail, src + tail, row_bytes - tail)


@cpu_kernel("void(int64, int64, int64, int64, int64)")
def copy_listed(dsts, srcs, num_rows, row_bytes, stream_bytes):
    """Copy row i of `row_bytes` from the address srcs[i] to dsts[i] (int64 each).

    From `stream_bytes` in all on, long rows go around the caches: data/copy.py says why.
    """
    streams = num_rows * row_bytes >= stream_bytes and row_bytes >= MIN_STREAM_ROW_BYTES
    row = 0
    while row < num_rows:
        if streams:
            stream_row(load_i64(dsts, row), load_i64(srcs, row), row_bytes)
        else:
            copy_bytes(load_i64(dsts, row), load_i64(srcs, row), row_bytes)
        row += 1
    if streams:
        stream_fence()
