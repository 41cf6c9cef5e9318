"""Copies of bytes between any two mapped addresses: contiguous, and rows of a strided block.

Three ways, by size. Small copies are the C library's memcpy. From `stream_bytes` on, stores go around the
caches: an ordinary store first reads the line that it overwrites, a third of the memory traffic of a
copy; but what is streamed is not in the cache for its reader, so below that size streaming loses.
Several lanes (CUDA) take words or vectors in turn, so that neighbours touch neighbouring bytes.

All accesses are plain; a release after the copy publishes it (streamed stores are fenced here). Source
and destination must not overlap.
"""

from __future__ import annotations

from umem import limits

from ..build.compile import cpu_kernel, device_function
from ..build.variants import variant
from ..intrinsics.scalar import load_i64, load_u8, load_u32, store_i64, store_u8, store_u32
from ..intrinsics.system import copy_bytes, lane_index, num_lanes, prefetch, stream_fence
from ..intrinsics.vector import vec_lanes_i64, vec_load_i64, vec_store_i64, vec_stream_i64

CORE_LINE_BYTES = 64  # alignment of streamed stores
MIN_STREAM_ROW_BYTES = 1024  # shorter rows lose more at their unaligned ends than streaming saves
SMALL_PAGE_BYTES = 4096  # where a processor stops to fetch ahead
LOOK_AHEAD_BYTES = 4 * SMALL_PAGE_BYTES  # shorter copies end before looking a page ahead has paid
UNALIGNED_VECTORS = 1  # 0 in the variants for CUDA, where a vector access needs 16-byte alignment


def default_stream_bytes() -> int:
    """Size from which a copy on this machine should stream: four times a core's L2 cache, at least 2 MiB.

    Measured on Zen 4 (1 MiB L2): with buffers that are used again at once, streaming loses 0.65 to 1 up to
    4 MiB and wins 1.3 to 1 from 8 MiB on; with buffers that are not in the cache it wins at every size.
    """
    return max(4 * limits.l2_cache_bytes(), 2 << 20)


@device_function
def look_nowhere(src, num_bytes):
    """What is read comes next to what was read: the processor finds it."""


@device_function
def look_ahead(src, num_bytes):
    """Have the next page's lines, and its translation, on their way. On pages of 4 KiB this made a copy from DRAM to
    DRAM a tenth faster (Zen 5)."""
    byte = 0
    while byte < num_bytes:
        prefetch(src + SMALL_PAGE_BYTES + byte)
        byte += CORE_LINE_BYTES


look = look_nowhere


@device_function
def copy_vectors(dst, src, num_vectors, lane, num_lanes):
    """Copy whole vectors; four are in flight before the first is stored."""
    step = num_lanes * vec_lanes_i64()
    end = num_vectors * vec_lanes_i64()
    index = lane * vec_lanes_i64()
    while index + 3 * step < end:
        look(src + 8 * index, 32 * step)
        a = vec_load_i64(src, index)
        b = vec_load_i64(src, index + step)
        c = vec_load_i64(src, index + 2 * step)
        d = vec_load_i64(src, index + 3 * step)
        vec_store_i64(dst, index, a)
        vec_store_i64(dst, index + step, b)
        vec_store_i64(dst, index + 2 * step, c)
        vec_store_i64(dst, index + 3 * step, d)
        index += 4 * step
    while index < end:
        vec_store_i64(dst, index, vec_load_i64(src, index))
        index += step


stream_vectors = variant(copy_vectors, "stream_vectors", vec_store_i64=vec_stream_i64)
stream_pages = variant(copy_vectors, "stream_pages", vec_store_i64=vec_stream_i64, look=look_ahead)


@device_function
def unit_bytes(bits):
    """Widest of 8, 4 and 1 bytes that divides all numbers whose bits are or-ed together in `bits`."""
    if bits & 3:
        return 1
    return 4 if bits & 7 else 8


@device_function
def copy_unit(dst, src, num_bytes):
    """Copy 8, 4 or 1 bytes, aligned to their number."""
    if num_bytes == 8:
        store_i64(dst, 0, load_i64(src, 0))
    elif num_bytes == 4:
        store_u32(dst, 0, load_u32(src, 0))
    else:
        store_u8(dst, 0, load_u8(src, 0))


@device_function
def copy(dst, src, num_bytes, stream_bytes, lane, num_lanes):
    """Copy `num_bytes` of any alignment.

    Lanes: vectors in turn; lane 0 also the ends. Writes [dst, dst + num_bytes), every byte once.
    Twin: dst[:] = src.
    """
    if num_lanes == 1 and num_bytes < stream_bytes:
        copy_bytes(dst, src, num_bytes)
        return
    if UNALIGNED_VECTORS == 0 and (dst ^ src) & 15:
        copy_2d_spread(dst, 0, src, 0, 1, num_bytes, lane, num_lanes)
        return
    vector_bytes = 8 * vec_lanes_i64()
    head = min(-dst & (CORE_LINE_BYTES - 1), num_bytes)
    num_vectors = (num_bytes - head) // vector_bytes
    if num_bytes < stream_bytes:
        copy_vectors(dst + head, src + head, num_vectors, lane, num_lanes)
    elif UNALIGNED_VECTORS == 0 or num_bytes < LOOK_AHEAD_BYTES:
        stream_vectors(dst + head, src + head, num_vectors, lane, num_lanes)
        stream_fence()
    else:
        stream_pages(dst + head, src + head, num_vectors, lane, num_lanes)
        stream_fence()
    if lane == 0:
        tail = head + num_vectors * vector_bytes
        copy_bytes(dst, src, head)
        copy_bytes(dst + tail, src + tail, num_bytes - tail)


@device_function
def copy_2d_spread(dst, dst_stride, src, src_stride, num_rows, row_bytes, lane, num_lanes):
    """Rows of a strided block, their words dealt out to the lanes one by one."""
    size = unit_bytes(dst | dst_stride | src | src_stride | row_bytes)
    units_per_row = row_bytes // size
    unit = lane
    while unit < num_rows * units_per_row:
        row = unit // units_per_row
        byte = (unit - row * units_per_row) * size
        copy_unit(dst + row * dst_stride + byte, src + row * src_stride + byte, size)
        unit += num_lanes


@device_function
def copy_2d(dst, dst_stride, src, src_stride, num_rows, row_bytes, stream_bytes, lane, num_lanes):
    """Copy `num_rows` rows of `row_bytes` between blocks whose rows start `*_stride` bytes apart.

    Packs (dst_stride == row_bytes), unpacks (src_stride == row_bytes) or moves a slice. Strides may be any
    number, negative too, as long as rows do not overlap. Writes the rows of `dst` and nothing between them.
    Lanes: one copies row by row; several take words in turn. Twin: reference.copy_2d.
    """
    if dst_stride == row_bytes and src_stride == row_bytes:
        copy(dst, src, num_rows * row_bytes, stream_bytes, lane, num_lanes)
        return
    if num_lanes > 1 or row_bytes == 8 or row_bytes == 4:
        copy_2d_spread(dst, dst_stride, src, src_stride, num_rows, row_bytes, lane, num_lanes)
        return
    row_stream_bytes = stream_bytes
    if num_rows * row_bytes >= stream_bytes and row_bytes >= MIN_STREAM_ROW_BYTES:
        row_stream_bytes = 0
    row = 0
    while row < num_rows:
        copy(dst + row * dst_stride, src + row * src_stride, row_bytes, row_stream_bytes, 0, 1)
        row += 1


def _cpu_copy(dst, src, num_bytes, stream_bytes):
    """`copy` by one lane."""
    copy(dst, src, num_bytes, stream_bytes, 0, 1)


def _cpu_copy_2d(dst, dst_stride, src, src_stride, num_rows, row_bytes, stream_bytes):
    """`copy_2d` by one lane."""
    copy_2d(dst, dst_stride, src, src_stride, num_rows, row_bytes, stream_bytes, 0, 1)


cpu_copy = cpu_kernel("void(int64, int64, int64, int64)")(_cpu_copy)
cpu_copy_2d = cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64)")(_cpu_copy_2d)

copy_aligned = variant(copy, "copy_aligned", UNALIGNED_VECTORS=0)


def cuda_copy(dst, src, num_bytes, stream_bytes):
    """`copy` by all lanes of a launch."""
    copy_aligned(dst, src, num_bytes, stream_bytes, lane_index(), num_lanes())


def cuda_copy_2d(dst, dst_stride, src, src_stride, num_rows, row_bytes):
    """`copy_2d` by all lanes of a launch."""
    copy_2d_spread(dst, dst_stride, src, src_stride, num_rows, row_bytes, lane_index(), num_lanes())
