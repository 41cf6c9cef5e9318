"""Copies write every byte of the destination, once, and none beside it, whatever the size and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.data.guarded import Guarded
from umem.kernels import cpu_kernel
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.data import copy as kernels
from umem.kernels.data import reference

STREAM_ALWAYS, STREAM_NEVER = 0, 1 << 60
offsets = st.integers(0, 130)
stream_bytes = st.sampled_from([STREAM_ALWAYS, STREAM_NEVER])

cpu_copy_by_lane = cpu_kernel("void(int64, int64, int64, int64, int64, int64)")(kernels.copy)
cpu_copy_2d_by_lane = cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64, int64, int64)")(
    kernels.copy_2d
)


@settings(max_examples=150, deadline=None)
@given(num_bytes=st.integers(0, 5000), dst_offset=offsets, src_offset=offsets, stream=stream_bytes)
def test_copy_equals_its_twin(num_bytes, dst_offset, src_offset, stream):
    dst, src = Guarded(num_bytes, dst_offset), Guarded(num_bytes, src_offset).fill(num_bytes)
    kernels.cpu_copy(dst.address, src.address, num_bytes, stream)
    assert np.array_equal(dst.bytes, src.bytes)
    dst.assert_guards_stand()


@settings(max_examples=60, deadline=None)
@given(num_bytes=st.integers(0, 3000), dst_offset=offsets, src_offset=offsets, num_lanes=st.integers(2, 5))
def test_lanes_together_copy_everything(num_bytes, dst_offset, src_offset, num_lanes):
    dst, src = Guarded(num_bytes, dst_offset), Guarded(num_bytes, src_offset).fill(num_bytes)
    for lane in range(num_lanes):
        cpu_copy_by_lane(dst.address, src.address, num_bytes, STREAM_NEVER, lane, num_lanes)
    assert np.array_equal(dst.bytes, src.bytes)
    dst.assert_guards_stand()


def test_lanes_write_disjoint_bytes():
    written = np.zeros(1000, int)
    for lane in range(3):
        dst, src = Guarded(1000, 5), Guarded(1000)
        src.bytes[:] = 1
        cpu_copy_by_lane(dst.address, src.address, 1000, STREAM_NEVER, lane, 3)
        written += dst.bytes
    assert (written == 1).all()


@pytest.mark.parametrize("body", [kernels.copy, kernels.copy_aligned], ids=["copy", "copy_aligned"])
@pytest.mark.parametrize(
    ("num_bytes", "dst_offset", "src_offset"), [(0, 0, 0), (7, 3, 3), (200, 0, 1), (300, 9, 25)]
)
@pytest.mark.parametrize("stream", [STREAM_ALWAYS, STREAM_NEVER])
def test_copy_as_plain_python(body, num_bytes, dst_offset, src_offset, stream):
    dst, src = Guarded(num_bytes, dst_offset), Guarded(num_bytes, src_offset).fill(1)
    for lane in range(2):
        body(dst.address, src.address, num_bytes, stream, lane, 2)
    assert np.array_equal(dst.bytes, src.bytes)
    dst.assert_guards_stand()


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 9),
    row_bytes=st.sampled_from([0, 1, 3, 4, 8, 12, 64, 100, 1024, 1300]),
    dst_gap=st.integers(0, 70),
    src_gap=st.integers(0, 70),
    offset=st.integers(0, 63),
    stream=stream_bytes,
    num_lanes=st.integers(1, 3),
)
def test_copy_2d_equals_its_twin(num_rows, row_bytes, dst_gap, src_gap, offset, stream, num_lanes):
    dst_stride, src_stride = row_bytes + dst_gap, row_bytes + src_gap
    dst, src = Guarded(num_rows * dst_stride, offset), Guarded(num_rows * src_stride).fill(2)
    wanted = reference.copy_2d(dst.bytes, dst_stride, src.bytes, src_stride, num_rows, row_bytes)
    for lane in range(num_lanes):
        cpu_copy_2d_by_lane(
            dst.address, dst_stride, src.address, src_stride, num_rows, row_bytes, stream, lane, num_lanes
        )
    assert np.array_equal(dst.bytes, wanted)
    dst.assert_guards_stand()


def test_copy_2d_packs_and_unpacks_a_slice_of_columns():
    matrix = np.arange(60 * 50, dtype=np.float32).reshape(60, 50)
    packed = np.zeros((60, 7), np.float32)
    kernels.cpu_copy_2d(packed.ctypes.data, 28, matrix[:, 5:].ctypes.data, 200, 60, 28, STREAM_NEVER)
    assert np.array_equal(packed, matrix[:, 5:12])
    back = np.zeros_like(matrix)
    kernels.cpu_copy_2d(back[:, 5:].ctypes.data, 200, packed.ctypes.data, 28, 60, 28, STREAM_NEVER)
    assert np.array_equal(back[:, 5:12], packed) and not back[:, :5].any() and not back[:, 12:].any()


def test_copy_2d_may_walk_backwards():
    src, dst = np.arange(12, dtype=np.int64).reshape(4, 3), np.zeros((4, 3), np.int64)
    kernels.cpu_copy_2d(dst[3:].ctypes.data, -24, src.ctypes.data, 24, 4, 24, STREAM_NEVER)
    assert np.array_equal(dst, src[::-1])


def test_copy_2d_as_plain_python():
    src, dst = Guarded(5 * 11).fill(3), Guarded(5 * 16)
    wanted = reference.copy_2d(dst.bytes, 16, src.bytes, 11, 5, 11)
    kernels.copy_2d(dst.address, 16, src.address, 11, 5, 11, STREAM_NEVER, 0, 1)
    assert np.array_equal(dst.bytes, wanted)


def test_streaming_starts_beyond_the_core_caches():
    assert 2 << 20 <= kernels.default_stream_bytes() <= 64 << 20


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_copies_assemble_for_cuda(cc):
    ptx, _ = cuda_ptx(kernels.cuda_copy, "void(int64, int64, int64, int64)", cc=cc)
    assert "ld.global.v2" in ptx and "st.global.v2" in ptx
    assert cuda_cubin(ptx, cc)
    ptx, _ = cuda_ptx(kernels.cuda_copy_2d, "void(int64, int64, int64, int64, int64, int64)", cc=cc)
    assert cuda_cubin(ptx, cc)
