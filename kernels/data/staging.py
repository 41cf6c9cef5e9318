"""The four steps of a staged transfer that a rank does itself: the fifth, between them, is the transport's.

    1 copy out   the slice's rows, from where they live to a contiguous host buffer
    2 pack       header and rows into the message
    3 transfer   (transport)
    4 unpack     rows out of the message into a host buffer, after a look at the header
    5 copy in    the rows to where they go

This is what moving a strided slice between two devices costs without peer access: each step is a pass over
the data. Times are words of `times`, nanoseconds of now_ns: begin, after 1, after 2; and begin of 4, after 4, after 5.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..intrinsics.scalar import load_i64, store_i64
from ..intrinsics.system import now_ns
from ..status import BAD_REQUEST, OK
from .copy import copy, copy_2d

STAGING_HEADER_BYTES = 64  # a line: rows that follow stay aligned
STAGING_MAGIC_VALUE = 0x756D_656D_0005
STAGING_MAGIC, STAGING_NUM_ROWS, STAGING_ROW_BYTES, STAGING_SENT_NS = 0, 1, 2, 3


@device_function
def copy_out_and_pack(src, src_stride, num_rows, row_bytes, staging, message, stream_bytes, times):
    """Steps 1 and 2: `num_rows` rows, `src_stride` bytes apart, through `staging` into `message`.

    Writes num_rows * row_bytes bytes of `staging`, STAGING_HEADER_BYTES more of `message`, and times[0:3].
    """
    num_bytes = num_rows * row_bytes
    store_i64(times, 0, now_ns())
    copy_2d(staging, row_bytes, src, src_stride, num_rows, row_bytes, stream_bytes, 0, 1)
    store_i64(times, 1, now_ns())
    copy(message + STAGING_HEADER_BYTES, staging, num_bytes, stream_bytes, 0, 1)
    store_i64(message, STAGING_MAGIC, STAGING_MAGIC_VALUE)
    store_i64(message, STAGING_NUM_ROWS, num_rows)
    store_i64(message, STAGING_ROW_BYTES, row_bytes)
    now = now_ns()
    store_i64(message, STAGING_SENT_NS, now)
    store_i64(times, 2, now)


@device_function
def unpack_and_copy_in(message, num_rows, row_bytes, staging, dst, dst_stride, stream_bytes, times):
    """Steps 4 and 5: the rows of `message` through `staging` to `dst`, `dst_stride` bytes apart.

    Returns BAD_REQUEST, with nothing written but times[0], for a message of another shape. Writes times[0:3].
    """
    store_i64(times, 0, now_ns())
    if (
        load_i64(message, STAGING_MAGIC) != STAGING_MAGIC_VALUE
        or load_i64(message, STAGING_NUM_ROWS) != num_rows
        or load_i64(message, STAGING_ROW_BYTES) != row_bytes
    ):
        return BAD_REQUEST
    copy(staging, message + STAGING_HEADER_BYTES, num_rows * row_bytes, stream_bytes, 0, 1)
    store_i64(times, 1, now_ns())
    copy_2d(dst, dst_stride, staging, row_bytes, num_rows, row_bytes, stream_bytes, 0, 1)
    store_i64(times, 2, now_ns())
    return OK


cpu_copy_out_and_pack = cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64, int64)")(
    copy_out_and_pack
)
cpu_unpack_and_copy_in = cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")(
    unpack_and_copy_in
)
