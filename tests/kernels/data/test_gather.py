"""Look-ups return the rows, or the sums of the rows, that the indices name, for every width and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.data.guarded import Guarded
from umem.kernels import cpu_kernel
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.build.direct_memory import DirectMemory
from umem.kernels.data import gather, gather_sum, reference
from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.elements import Element, Number
from umem.kernels.status import OK, OUT_OF_RANGE

STREAM_ALWAYS, STREAM_NEVER = 0, 1 << 60
EIGHT = ", ".join(["int64"] * 8)

cpu_gather_rows_by_lane = cpu_kernel(f"void({EIGHT})")(gather.gather_rows)
cpu_gather_sum_by_lane = cpu_kernel(f"void({EIGHT}, int64)")(gather_sum.GATHER_SUM["f32"])
cpu_gather_sum_spread = cpu_kernel(f"void({EIGHT}, int64)")(gather_sum.gather_sum_spread)


def choose(num_indices: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng(num_indices).integers(0, num_rows, num_indices)


@settings(max_examples=120, deadline=None)
@given(
    row_bytes=st.one_of(
        st.integers(0, 300), st.sampled_from([8, 16, 32, 64, 128, 256, 512, 2047, 2048, 4096])
    ),
    num_rows=st.integers(0, 90),
    dst_offset=st.sampled_from([0, 0, 8, 13]),
    table_offset=st.sampled_from([0, 0, 8, 29]),
    stream=st.sampled_from([STREAM_ALWAYS, STREAM_NEVER]),
)
def test_gather_rows_equals_its_twin(row_bytes, num_rows, dst_offset, table_offset, stream):
    table = Guarded(23 * row_bytes, table_offset).fill(row_bytes)
    dst, indices = Guarded(num_rows * row_bytes, dst_offset), choose(num_rows, 23)
    gather.cpu_gather_rows(dst.address, table.address, indices.ctypes.data, num_rows, row_bytes, stream)
    wanted = reference.gather_rows(table.bytes.reshape(23, row_bytes), indices)
    assert np.array_equal(dst.bytes, wanted.reshape(-1))
    dst.assert_guards_stand()


def test_lanes_gather_rows_in_turn():
    table, dst, indices = Guarded(9 * 40).fill(1), Guarded(50 * 40), choose(50, 9)
    for lane in range(3):
        address = indices.ctypes.data
        cpu_gather_rows_by_lane(dst.address, table.address, address, 50, 40, STREAM_NEVER, lane, 3)
    assert np.array_equal(dst.bytes.reshape(50, 40), table.bytes.reshape(9, 40)[indices])


@pytest.mark.parametrize("row_bytes", [3, 8, 12, 64])
def test_gather_rows_as_plain_python(row_bytes):
    table, indices = Guarded(6 * row_bytes).fill(1), choose(5, 6)
    wanted = reference.gather_rows(table.bytes.reshape(6, row_bytes), indices).reshape(-1)
    for body in (gather.gather_rows_spread, lambda *a: gather.gather_rows(*a[:5], STREAM_NEVER, *a[5:])):
        dst = Guarded(5 * row_bytes)
        for lane in range(2):
            body(dst.address, table.address, indices.ctypes.data, 5, row_bytes, lane, 2)
        assert np.array_equal(dst.bytes, wanted)
        dst.assert_guards_stand()


def test_check_indices_finds_one_bad_index_anywhere():
    indices = choose(100, 50)
    assert gather.cpu_check_indices(indices.ctypes.data, 100, 50) == OK
    assert gather.cpu_check_indices(indices.ctypes.data, 0, 50) == OK
    for position, bad in ((0, 50), (99, -1), (57, 1 << 62)):
        spoiled = indices.copy()
        spoiled[position] = bad
        assert gather.cpu_check_indices(spoiled.ctypes.data, 100, 50) == OUT_OF_RANGE


class Bags:
    """A table, and bags of indices into it: empty ones, and more than the prefetch distance."""

    def __init__(
        self, num_columns: int, num_bags: int, row_type: str = "f32", padding: int = 0, offset: int = 0
    ):
        rng = np.random.default_rng(num_columns * 1000 + num_bags)
        element_bytes = 4 if row_type == "f32" else 2
        self.row_bytes = (num_columns + padding) * element_bytes
        self.memory = Guarded(37 * self.row_bytes, offset)
        values = rng.standard_normal((37, num_columns + padding), np.float32)
        if row_type == "bf16":
            stored = reference.bf16_from_f32(values)
            values = reference.f32_from_bf16(stored)
        else:
            stored = values.astype({"f32": np.float32, "f16": np.float16}[row_type])
        self.memory.bytes[:] = np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
        self.offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 30, num_bags))])
        self.indices = rng.integers(0, 37, self.offsets[-1])
        self.num_columns, self.num_bags = num_columns, num_bags
        table = (stored if row_type == "f16" else values)[:, :num_columns]
        self.wanted = reference.gather_sum(table, self.indices, self.offsets)

    def sum_with(self, kernel, *lane) -> np.ndarray:
        """What `kernel` writes, summed over its lanes: each bag or column is one lane's."""
        dst = Guarded(self.num_bags * self.num_columns * 4, 4)
        addresses = dst.address, self.memory.address, self.indices.ctypes.data, self.offsets.ctypes.data
        kernel(*addresses, self.num_bags, self.num_columns, self.row_bytes, *lane)
        dst.assert_guards_stand()
        return dst.of(np.float32).reshape(self.num_bags, self.num_columns)


@settings(max_examples=60, deadline=None)
@given(
    num_columns=st.one_of(st.integers(1, 70), st.sampled_from([96, 128, 200, 256, 333, 512])),
    num_bags=st.integers(0, 12),
    padding=st.sampled_from([0, 0, 1, 16]),
    offset=st.sampled_from([0, 4, 20]),
)
def test_gather_sum_equals_its_twin_to_the_bit(num_columns, num_bags, padding, offset):
    bags = Bags(num_columns, num_bags, "f32", padding, offset)
    assert np.array_equal(bags.sum_with(gather_sum.CPU_GATHER_SUM["f32"]), bags.wanted)


@pytest.mark.parametrize("row_type", ["f16", "bf16"])
@pytest.mark.parametrize("num_columns", [1, 15, 64, 100, 288])
def test_half_width_rows_are_summed_as_float32(row_type, num_columns):
    bags = Bags(num_columns, 6, row_type)
    assert np.array_equal(bags.sum_with(gather_sum.CPU_GATHER_SUM[row_type]), bags.wanted)


@pytest.mark.parametrize("kernel", [cpu_gather_sum_by_lane, cpu_gather_sum_spread], ids=["bags", "columns"])
def test_lanes_sum_bags_in_turn(kernel):
    bags = Bags(40, 7)
    parts = [bags.sum_with(kernel, lane, 3) for lane in range(3)]
    assert np.array_equal(sum(parts), bags.wanted)


@pytest.mark.parametrize("num_columns", [1, 5, 31])
def test_gather_sum_as_plain_python(num_columns):
    bags = Bags(num_columns, 3)
    for body in (gather_sum.gather_sum, gather_sum.gather_sum_spread):
        parts = [bags.sum_with(body, lane, 2) for lane in range(2)]
        assert np.array_equal(sum(parts), bags.wanted)


class Fenced(DirectMemory):
    """This process's memory, of which only `arrays` may be read: what follows each may be unmapped."""

    def __init__(self, *arrays: np.ndarray):
        self.ranges = [(int(array.ctypes.data), int(array.ctypes.data) + array.nbytes) for array in arrays]

    def load(self, address: int, element: Element, ordering: object) -> Number:
        assert any(start <= address < end for start, end in self.ranges), f"a load at {address:#x}, not given"
        return super().load(address, element, ordering)


@pytest.mark.parametrize("num_columns", [5, 64, 300])
@pytest.mark.parametrize("num_indices", [1, 40])
def test_nothing_past_the_last_index_is_read(num_columns, num_indices):
    bags = Bags(num_columns, 2)
    bags.indices = np.arange(num_indices) % 37
    bags.offsets = np.array([0, num_indices // 2, num_indices])
    with machine.use(Fenced(bags.memory.bytes, bags.indices, bags.offsets)):
        bags.sum_with(
            gather_sum.gather_sum_spread if num_columns == 5 else gather_sum.GATHER_SUM["f32"], 0, 1
        )


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_look_ups_assemble_for_cuda(cc):
    bodies = [(gather.cuda_gather_rows, 5), *((body, 7) for body in gather_sum.CUDA_GATHER_SUM.values())]
    for body, num_arguments in bodies:
        ptx, _ = cuda_ptx(body, f"void({', '.join(['int64'] * num_arguments)})", cc=cc)
        assert cuda_cubin(ptx, cc)
