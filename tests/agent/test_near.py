"""Operations at the home give what the same operation gives here, wherever the data lives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from umem.agent import Near, Operation, Request
from umem.agent.asking.near import MAX_INDICES
from umem.agent.serving.near_handlers import REDUCE_TYPES, ROW_TYPES
from umem.errors import AddressError, AlignmentError, ArgumentTypeError, ConfigError, UnknownName
from umem.kernels import status
from umem.kernels.data import reference

from .ranks import Rank, get, needs_ucx, put, run_ranks, start

needs_ucx()
pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

NUM_ROWS = 3000
ROW_DTYPES = {"f32": np.float32, "f16": np.float16}
REDUCE_DTYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "f16": np.float16}


def home(me: Rank) -> None:
    start(me)
    me.meet()
    me.close()


def put_table(me: Rank, table: int, rows: np.ndarray) -> None:
    """Write the rows to their homes."""
    flat = rows.reshape(-1).view(np.uint8)
    for address, num_bytes in me.segments.map.pieces(table, flat.nbytes):
        offset = address - table
        put(me, me.segments.map.home(address), address, flat[offset : offset + num_bytes])


def tables(me: Rank, row_bytes: int) -> list[int]:
    """Addresses for a table at one home, and for one of which a third lies at another."""
    plan = me.segments.map
    return [me.word(1), plan.striped_base + plan.block_bytes - NUM_ROWS // 3 * row_bytes]


def test_gathered_rows_are_the_rows_that_were_named(transport: str) -> None:
    def user(me: Rank) -> None:
        near = Near(start(me).client, me.segments.map)
        random = np.random.default_rng(1)
        for columns in (1, 16, 160):
            for table in tables(me, 4 * columns):
                rows = random.integers(0, 1 << 30, (NUM_ROWS, columns), np.int32)
                put_table(me, table, rows)
                for num_indices in (0, 1, 77, 2 * MAX_INDICES + 5 if columns < 160 else 700):
                    indices = random.integers(0, NUM_ROWS, num_indices)
                    dst = np.zeros((num_indices, columns), np.int32)
                    near.gather(dst, table, NUM_ROWS, indices)
                    assert np.array_equal(dst, rows[indices])
        me.meet()
        me.close()

    run_ranks([user, home], transport)


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_sums_of_bags_are_those_of_the_rows(transport: str, row_type: str) -> None:
    def user(me: Rank) -> None:
        near = Near(start(me).client, me.segments.map)
        random = np.random.default_rng(2)
        columns, row_bytes = 40, 192
        values = random.integers(0, 8, (NUM_ROWS, columns))  # whole numbers: every order gives the same sum
        rows = np.zeros((NUM_ROWS, row_bytes), np.uint8)
        if row_type == "bf16":
            bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            rows[:, : 2 * columns] = bits.view(np.uint8)
        else:
            rows[:, : columns * ROW_DTYPES[row_type]().itemsize] = values.astype(ROW_DTYPES[row_type]).view(
                np.uint8
            )
        sizes = [0, 1, 20, 3, 0, MAX_INDICES + 9, 2, 0]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        indices = random.integers(0, NUM_ROWS, offsets[-1])
        expected = np.array([values[indices[a:b]].sum(axis=0) for a, b in itertools.pairwise(offsets)])
        for table in tables(me, row_bytes):
            put_table(me, table, rows)
            for num_bags in (len(sizes), 4, 1, 0):  # many requests, and one
                dst = np.full((num_bags, columns), np.nan, np.float32)
                some = indices[: offsets[num_bags]]
                near.gather_sum(dst, table, NUM_ROWS, row_bytes, offsets[: num_bags + 1], some, row_type)
                assert np.array_equal(dst, expected[:num_bags])
        me.meet()
        me.close()

    run_ranks([user, home], transport)


def test_one_home_adds_in_the_order_of_the_indices(transport: str) -> None:
    """So `near` and the kernel over mapped memory give the same bits."""

    def user(me: Rank) -> None:
        near = Near(start(me).client, me.segments.map)
        random = np.random.default_rng(3)
        rows = random.standard_normal((NUM_ROWS, 33)).astype(np.float32)
        put_table(me, me.word(1), rows)
        offsets = np.arange(0, 2001, 20)
        indices = random.integers(0, NUM_ROWS, offsets[-1])
        dst = np.zeros((len(offsets) - 1, 33), np.float32)
        near.gather_sum(dst, me.word(1), NUM_ROWS, 132, offsets, indices)
        expected = np.zeros_like(dst)
        for bag in range(len(dst)):
            for index in indices[offsets[bag] : offsets[bag + 1]]:
                expected[bag] += rows[index]
        assert dst.tobytes() == expected.tobytes()
        me.meet()
        me.close()

    assert hasattr(reference, "gather_sum")
    run_ranks([user, home], transport)


@pytest.mark.parametrize("element_type", REDUCE_TYPES)
def test_blocks_of_several_ranks_add_up_at_the_home(transport: str, element_type: str) -> None:
    dtype = REDUCE_DTYPES.get(element_type, np.uint16)
    num_elements, one = 100_003, 1
    if element_type == "bf16":
        one = 0x3F80  # 1.0; three of them are 0x4040

    def adder(me: Rank) -> None:
        near = Near(start(me).client, me.segments.map)
        block = np.full(num_elements, one, dtype)
        where = me.segments.map.striped_base + 64
        near.reduce(where, block, element_type)
        near.reduce(me.word(0, 8), block[:5], element_type)
        me.meet()
        total = np.zeros(num_elements + 2, dtype)
        for start_address, num_bytes in me.segments.map.pieces(where, total.nbytes):
            rank, offset = me.segments.map.home(start_address), start_address - where
            get(me, rank, start_address, total.view(np.uint8)[offset : offset + num_bytes])
        assert set(total[:num_elements].tolist()) == {0x4040 if element_type == "bf16" else 3}
        assert not total[num_elements:].any()
        few = np.zeros(6, dtype)
        get(me, 0, me.word(0, 8), few)
        assert np.array_equal(few[:5], total[:5])
        assert few[5] == 0
        me.close()

    run_ranks([adder] * 3, transport)


def test_what_does_not_fit_is_refused_before_memory_is_touched(transport: str) -> None:
    def user(me: Rank) -> None:
        client = start(me).client
        plan, word = me.segments.map, me.word(1)
        near, dst = Near(client, plan), np.zeros((4, 16), np.float32)
        indices, offsets = np.zeros(4, np.int64), np.arange(5)
        with pytest.raises(AddressError, match="index 100 names no row of a table of 100 rows"):
            near.gather(dst, word, 100, np.array([0, 1, 100, -1]))
        with pytest.raises(AddressError, match="cross from one home to another"):
            near.gather(np.zeros((4, 5000), np.float32), plan.striped_base + 8, 200, indices + 104)
        with pytest.raises(AddressError, match="in no segment"):
            near.gather(dst, 4096, 100, indices)
        with pytest.raises(ConfigError, match="must be contiguous int64"):
            near.gather(dst, word, 100, indices.astype(np.int32))
        with pytest.raises(ConfigError, match="not 4 rows"):
            near.gather(dst[:3], word, 100, indices)
        with pytest.raises(ConfigError, match="do not cut 4 indices"):
            near.gather_sum(dst, word, 100, 64, offsets + 1, indices)
        with pytest.raises(ConfigError, match="more than a row of 32 bytes"):
            near.gather_sum(dst, word, 100, 32, offsets, indices)
        with pytest.raises(UnknownName, match="row type 'f8'"):
            near.gather_sum(dst, word, 100, 64, offsets, indices, "f8")
        with pytest.raises(UnknownName, match="element type 'f8'"):
            near.reduce(word, dst, "f8")
        with pytest.raises(AlignmentError):
            near.reduce(word + 2, dst, "f32")
        for block, element_type in (
            (dst.astype(np.float64), "f32"),
            (dst.astype(">f4"), "f32"),
            (dst, "bf16"),
        ):
            with pytest.raises(ArgumentTypeError, match="a block of"):
                near.reduce(word, block, element_type)
        with pytest.raises(ArgumentTypeError, match="sums of float64"):
            near.gather_sum(dst.astype(np.float64), word, 100, 64, offsets, indices)
        with pytest.raises(ArgumentTypeError, match="objects"):
            near.gather(dst.astype(object), word, 100, indices)
        with pytest.raises(ArgumentTypeError, match="whole number"):
            near.gather(dst, word + 0.5, 100, indices)
        # what only a broken client sends
        bad_index = np.array([1 << 40], np.int64)
        payload = (bad_index.ctypes.data, 8)
        for arguments in ((word, 100, 64), (word, 1 << 60, 1 << 60), (word, -1, 64), (me.word(0), 100, 64)):
            reply = client.finish(client.post(Request(1, Operation.GATHER, arguments, *payload)))
            assert reply.status == status.OUT_OF_RANGE
        for fields in ((word, 100, 64, 16, 0, 5), (word, 100, 64, 16, 9, 0), (word, 100, 64, 17, 0, 0)):
            reply = client.finish(client.post(Request(1, Operation.GATHER_SUM, fields, *payload)))
            assert reply.status == status.BAD_REQUEST
        for block in ((word, 3, 0), (word, 2, 6), (word, 1, 1), (word, 1, 3), (word + 2, 2, 0)):
            reply = client.finish(client.post(Request(1, Operation.REDUCE, block, *payload)))
            assert reply.status == status.BAD_REQUEST
        me.meet()
        me.close()

    run_ranks([user, home], transport)
