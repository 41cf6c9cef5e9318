"""Schedules of collectives by messages, as plain data: their results by the NumPy twin, whatever order UCX takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collectives.twin import Deadlock, Rank, Ranks
from umem.collectives import schedules
from umem.collectives.schedules import (
    DST,
    HEADERS,
    OUT,
    SCRATCH,
    SRC,
    Schedule,
    Shape,
    header_stride,
    schedule,
)
from umem.fabric.ucx.schedules import DO_CHECK
from umem.kernels.collective import layout

ALIKE = (
    layout.ALL_REDUCE,
    layout.REDUCE_TO_ROOT,
    layout.REDUCE_SCATTER,
    layout.ALL_GATHER,
    layout.GATHER,
    layout.BROADCAST,
    layout.SCATTER,
    layout.ALL_TO_ALL,
)
ALL = (*ALIKE, layout.BARRIER, layout.ALL_TO_ALL_V)
HEADER_DATA_BYTES = 128


@pytest.fixture(autouse=True, scope="module")
def small_sizes():
    """Sizes at which an operation goes another way, small enough for many chunks in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedules, "REDUCED_CHUNK_BYTES", 192)
        patch.setattr(schedules, "TREE_CHUNK_BYTES", 192)
        yield


def fold(arrays):
    """A reduction that tells the order: a hash of the elements so far with the next one."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total = total * np.uint8(31) + array
    return total


def wanted(shape, inputs, at):
    """What member `at` has after the operation, or None where it takes nothing."""
    if not shape.takes(at):
        return None
    begin = at * shape.length if shape.flags & layout.PERSONAL else 0
    blocks = [inputs[k][begin : begin + shape.length] for k in range(shape.size) if shape.sends(k)]
    return fold(blocks) if shape.flags & layout.REDUCES else np.concatenate(blocks)


def rank_of(made, size, source, result):
    """A member with its memory."""
    header_bytes = size * header_stride(size, HEADER_DATA_BYTES)
    memory = {
        SRC: source,
        DST: result,
        SCRATCH: np.zeros(made.scratch_bytes, np.uint8),
        OUT: np.zeros(header_bytes, np.uint8),
        HEADERS: np.zeros(header_bytes, np.uint8),
    }
    return Rank(made, memory)


def buffers_of(shape, data, is_in_place):
    """(source, result) of a member whose input is `data`, as Team hands them over."""
    flags, length, at = shape.flags, shape.length, shape.position
    source = data.copy()
    if flags == layout.BROADCAST or not shape.takes(at):
        return source, source
    if is_in_place and flags in (layout.ALL_REDUCE, layout.REDUCE_TO_ROOT):
        return source, source
    if is_in_place and flags == layout.REDUCE_SCATTER:
        return source, source[at * length : (at + 1) * length]
    result = np.zeros(length * (shape.size if flags & layout.COLLECTS else 1), np.uint8)
    if is_in_place and flags in (layout.ALL_GATHER, layout.GATHER):
        result[at * length : (at + 1) * length] = source
        source = result[at * length : (at + 1) * length]
    return source, result


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_results_are_those_of_numpy_in_any_order(data):
    flags = data.draw(st.sampled_from(ALIKE))
    size = data.draw(st.integers(1, 6))
    root = data.draw(st.integers(0, size - 1)) if flags & (layout.TO_ROOT | layout.FROM_ROOT) else 0
    length = data.draw(st.one_of(st.integers(0, HEADER_DATA_BYTES), st.integers(HEADER_DATA_BYTES, 3000)))
    is_in_place = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    shapes = [Shape(flags, length, root, size, at, HEADER_DATA_BYTES) for at in range(size)]
    num_bytes = length * size if flags & layout.PERSONAL else length
    inputs = [rng.integers(0, 256, num_bytes, np.uint8) for _ in range(size)]
    ranks = [
        rank_of(schedule(shape), size, *buffers_of(shape, given, is_in_place))
        for shape, given in zip(shapes, inputs, strict=True)
    ]
    # Some orders are lopsided: members that run ahead, messages that come last.
    skew = data.draw(st.sampled_from((0.3, 1.0, 4.0)))
    Ranks(ranks, fold).run(lambda n: int(n * rng.random() ** skew))
    for at, (shape, rank) in enumerate(zip(shapes, ranks, strict=True)):
        result = wanted(shape, inputs, at)
        if result is None:
            np.testing.assert_array_equal(rank.memory[SRC], inputs[at])
        else:
            np.testing.assert_array_equal(rank.memory[DST], result)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 1 << 30))
def test_blocks_of_any_length(size, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 400, (size, size)) * rng.integers(0, 2, (size, size))
    starts = np.cumsum(counts, axis=1) - counts
    inputs = [rng.integers(0, 256, int(counts[at].sum()), np.uint8) for at in range(size)]
    ranks = []
    for at in range(size):
        rows, taken = np.zeros((size, layout.TABLE_ROW_WORDS), np.int64), counts[:, at]
        rows[:, layout.TABLE_SEND], rows[:, layout.TABLE_SEND_AT] = counts[at], starts[at]
        rows[:, layout.TABLE_TAKE], rows[:, layout.TABLE_PUT_AT] = taken, np.cumsum(taken) - taken
        made = schedule(Shape(layout.ALL_TO_ALL_V, 0, 0, size, at, HEADER_DATA_BYTES), rows)
        ranks.append(rank_of(made, size, inputs[at], np.zeros(int(taken.sum()), np.uint8)))
    Ranks(ranks, fold).run(lambda n: int(rng.integers(n)))
    for at, rank in enumerate(ranks):
        parts = [inputs[k][starts[k, at] : starts[k, at] + counts[k, at]] for k in range(size)]
        np.testing.assert_array_equal(rank.memory[DST], np.concatenate(parts))


@pytest.mark.parametrize("flags", ALL)
@pytest.mark.parametrize("other", ALL)
def test_up_to_the_check_all_schedules_fit_each_other(flags, other):
    """What members call differently: as many messages, none longer than there is room for, none left over."""
    rows = np.zeros((3, layout.TABLE_ROW_WORDS), np.int64)
    for length, its_length in [(a, b) for a in (40, 5000) for b in (40, 5000)]:
        ranks = []
        for at in range(3):
            called = (flags, length) if at else (other, its_length)
            whole = schedule(Shape(*called, 0, 3, at, HEADER_DATA_BYTES), rows)
            kinds = [row[0] for row in whole.rows]
            heads = Schedule(whole.rows[: kinds.index(DO_CHECK) + 1], num_requests=4)
            ranks.append(rank_of(heads, 3, np.zeros(20_000, np.uint8), np.zeros(20_000, np.uint8)))
        team = Ranks(ranks, fold)
        team.run(lambda n: n - 1)
        assert not any(sent or taken for sent, taken in team.queues.values())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 33])
def test_a_tree_reaches_all(size):
    parents, children = zip(*(schedules.tree(index, size) for index in range(size)), strict=True)
    assert parents[0] is None
    for index in range(size):
        assert all(parents[child] == index for child in children[index])
    assert sorted(child for its in children for child in its) == list(range(1, size))


def test_the_twin_sees_a_deadlock():
    """Members that wait for a message before they send their own."""
    ranks = []
    for at in range(2):
        made = Schedule()
        made.recv(1 - at, DST, 0, 8)
        made.wait(0)
        made.send(1 - at, SRC, 0, 8)
        ranks.append(rank_of(made, 2, np.zeros(8, np.uint8), np.zeros(8, np.uint8)))
    with pytest.raises(Deadlock):
        Ranks(ranks, fold).run(lambda n: 0)
