"""Sums of any number of sources are NumPy's to the bit: every type, size, alignment, in place or not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.data.guarded import Guarded
from umem.kernels import cpu_kernel
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.data import reference
from umem.kernels.data.reduce import (
    CPU_REDUCE,
    CUDA_REDUCE,
    OPERATION_NAMES,
    REDUCE,
    REDUCE_SIGNATURE,
    TYPE_BYTES,
    forms_of,
    reduce,
)

STREAM_ALWAYS, STREAM_NEVER = 0, 1 << 60
DTYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64}

cpu_reduce_by_lane = cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64)")(REDUCE["f32"])


class Sources:
    """Sources of one type at their own alignments, and the table of their addresses."""

    def __init__(self, dtype: type, num_sources: int, num_elements: int, shift: int = 0):
        rng = np.random.default_rng(num_sources * 10_000 + num_elements)
        item = np.dtype(dtype).itemsize
        self.blocks = [Guarded(num_elements * item, item * (shift * i % 9)) for i in range(num_sources)]
        for block in self.blocks:
            if np.issubdtype(dtype, np.integer):
                info = np.iinfo(dtype)
                block.of(dtype)[:] = rng.integers(info.min, info.max, num_elements, dtype)
            else:
                block.of(dtype)[:] = rng.standard_normal(num_elements)
        self.table = np.array([block.address for block in self.blocks])
        self.arrays = [block.of(dtype).copy() for block in self.blocks]

    @property
    def address(self) -> int:
        return int(self.table.ctypes.data)


@pytest.mark.parametrize("name", DTYPES)
@settings(max_examples=40, deadline=None)
@given(
    num_sources=st.integers(1, 5),
    num_elements=st.integers(0, 700),
    shift=st.integers(0, 5),
    offset=st.integers(0, 20),
    stream=st.sampled_from([STREAM_ALWAYS, STREAM_NEVER]),
)
def test_reduce_equals_its_twin_to_the_bit(name, num_sources, num_elements, shift, offset, stream):
    dtype = DTYPES[name]
    sources = Sources(dtype, num_sources, num_elements, shift)
    dst = Guarded(num_elements * np.dtype(dtype).itemsize, offset * np.dtype(dtype).itemsize)
    CPU_REDUCE[name](dst.address, sources.address, num_sources, num_elements, stream)
    assert np.array_equal(dst.of(dtype), reference.reduce(sources.arrays))
    dst.assert_guards_stand()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("num_sources", [2, 3])
@pytest.mark.parametrize("place", [0, 1])
def test_reduce_in_place(name, num_sources, place):
    sources = Sources(DTYPES[name], num_sources, 333, 1)
    target = sources.blocks[place]
    CPU_REDUCE[name](target.address, sources.address, num_sources, 333, STREAM_ALWAYS)
    assert np.array_equal(target.of(DTYPES[name]), reference.reduce(sources.arrays))
    target.assert_guards_stand()


@pytest.mark.parametrize("num_sources", [1, 2, 4])
@pytest.mark.parametrize("num_elements", [0, 5, 500])
def test_half_width_sums_are_rounded_once(num_sources, num_elements):
    exact = Sources(np.float32, num_sources, num_elements)
    halves = [array.astype(np.float16) for array in exact.arrays]
    wanted = reference.reduce([half.astype(np.float32) for half in halves]).astype(np.float16)
    assert np.array_equal(run_half("f16", halves), wanted.view(np.uint16))
    brains = [reference.bf16_from_f32(array) for array in exact.arrays]
    total = reference.reduce([reference.f32_from_bf16(brain) for brain in brains])
    assert np.array_equal(run_half("bf16", brains), reference.bf16_from_f32(total))


def run_half(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    table, dst = np.array([array.ctypes.data for array in arrays]), Guarded(arrays[0].nbytes, 2)
    CPU_REDUCE[name](dst.address, table.ctypes.data, len(arrays), arrays[0].size, STREAM_NEVER)
    dst.assert_guards_stand()
    return dst.of(np.uint16)


@pytest.mark.parametrize("num_sources", [2, 3])
def test_lanes_sum_vectors_in_turn(num_sources):
    sources, dst = Sources(np.float32, num_sources, 1001), Guarded(4004, 12)
    for lane in range(3):
        cpu_reduce_by_lane(dst.address, sources.address, num_sources, 1001, STREAM_NEVER, lane, 3)
    assert np.array_equal(dst.of(np.float32), reference.reduce(sources.arrays))


@pytest.mark.parametrize("num_sources", [1, 2, 3])
def test_reduce_as_plain_python(num_sources):
    sources, dst = Sources(np.int64, num_sources, 37), Guarded(37 * 8, 8)
    for lane in range(2):
        REDUCE["i64"](dst.address, sources.address, num_sources, 37, STREAM_ALWAYS, lane, 2)
    assert np.array_equal(dst.of(np.int64), reference.reduce(sources.arrays))
    small = [np.arange(30, dtype=np.float32), np.full(30, 0.5, np.float32)]
    table, total = np.array([array.ctypes.data for array in small]), np.zeros(30, np.float32)
    reduce(total.ctypes.data, table.ctypes.data, 2, 30, STREAM_NEVER, 0, 1)
    assert np.array_equal(total, small[0] + small[1])


def test_sources_that_are_not_aligned_alike_are_summed_on_cuda_too():
    body = CUDA_REDUCE["i32"]
    sources, dst = Sources(np.int32, 3, 50, shift=1), Guarded(200)
    body(dst.address, sources.address, 3, 50, STREAM_NEVER)
    assert np.array_equal(dst.of(np.int32), reference.reduce(sources.arrays))


@pytest.mark.parametrize("name", CUDA_REDUCE)
def test_reduce_assembles_for_cuda(name):
    cc = {"f32": (8, 0), "f64": (9, 0), "i32": (10, 0)}.get(name, (9, 0))
    ptx, _ = cuda_ptx(CUDA_REDUCE[name], "void(int64, int64, int64, int64, int64)", cc=cc)
    assert cuda_cubin(ptx, cc)


COMBINED = [
    (operation, name)
    for operation in range(len(OPERATION_NAMES))
    for name in ("f32", "f64", "f16", "bf16", "i8", "u8", "i16", "i32", "i64")
]


@pytest.mark.parametrize(("operation", "name"), COMBINED, ids=str)
def test_every_operation_and_type_is_its_twin_with_and_without_vectors(operation, name):
    """Long and short, on vectors and off them, two sources and three: one by one is how its definition reads."""
    forms = forms_of(operation, name, unaligned_vectors=1)
    run = cpu_kernel(REDUCE_SIGNATURE)(forms.one_lane)
    rng = np.random.default_rng(operation)
    for num_sources, num_elements in ((2, 300), (3, 700), (1, 70)):
        bits = rng.integers(0, 256, (num_sources, num_elements * TYPE_BYTES[name]), np.uint8)
        if name[0] in "fb":
            values = rng.standard_normal((num_sources, num_elements)).astype(np.float32)
            kinds = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
            bits = values.astype(kinds[name]).view(np.uint8)
        table = np.array([row.ctypes.data for row in bits])
        whole = np.zeros(bits.shape[1], np.uint8)
        run(whole.ctypes.data, table.ctypes.data, num_sources, num_elements, STREAM_NEVER)
        single = np.zeros_like(whole)
        for index in range(num_elements):  # a single element is never in a vector
            shifted = table + index * TYPE_BYTES[name]
            place = single.ctypes.data + index * TYPE_BYTES[name]
            run(place, shifted.ctypes.data, num_sources, 1, STREAM_NEVER)
        assert np.array_equal(whole, single)
