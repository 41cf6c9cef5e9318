"""Staging moves a strided slice through both buffers, and a message of another shape writes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.data.guarded import Guarded
from umem.kernels import status
from umem.kernels.data import staging

MAX_ROWS, MAX_ROW_BYTES = 12, 300


def send_and_receive(num_rows, row_bytes, src_gap, dst_gap, stream, expected_rows=None):
    src_stride, dst_stride = row_bytes + src_gap, row_bytes + dst_gap
    src = Guarded(num_rows * src_stride).fill(row_bytes)
    dst = Guarded(num_rows * dst_stride)
    buffers = [Guarded(num_rows * row_bytes + staging.STAGING_HEADER_BYTES) for _ in range(3)]
    out, message, back = (buffer.address for buffer in buffers)
    times = np.zeros(6, np.int64)
    staging.cpu_copy_out_and_pack(
        src.address, src_stride, num_rows, row_bytes, out, message, stream, times.ctypes.data
    )
    rows = num_rows if expected_rows is None else expected_rows
    code = staging.cpu_unpack_and_copy_in(
        message, rows, row_bytes, back, dst.address, dst_stride, stream, times.ctypes.data + 24
    )
    for guarded in (src, dst, *buffers):
        guarded.assert_guards_stand()
    return code, src.bytes.reshape(num_rows, src_stride), dst.bytes.reshape(num_rows, dst_stride), times


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, MAX_ROWS),
    st.integers(1, MAX_ROW_BYTES),
    st.integers(0, 70),
    st.integers(0, 70),
    st.sampled_from([0, 1 << 60]),
)
def test_a_slice_arrives_whole_and_alone(num_rows, row_bytes, src_gap, dst_gap, stream):
    before = Guarded(num_rows * (row_bytes + dst_gap)).bytes.reshape(num_rows, -1).copy()
    code, src, dst, times = send_and_receive(num_rows, row_bytes, src_gap, dst_gap, stream)
    assert code == status.OK
    assert np.array_equal(dst[:, :row_bytes], src[:, :row_bytes])
    assert np.array_equal(dst[:, row_bytes:], before[:, row_bytes:]), "nothing between the rows is written"
    assert (np.diff(times) >= 0).all() and times[0] > 0, "steps follow each other on one clock"


def test_another_shape_is_refused_and_writes_nothing():
    code, _, dst, _ = send_and_receive(4, 40, 0, 8, 1 << 60, expected_rows=3)
    assert code == status.BAD_REQUEST
    assert np.array_equal(dst, Guarded(4 * 48).bytes.reshape(4, 48))
