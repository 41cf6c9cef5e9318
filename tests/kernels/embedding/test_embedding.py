"""Kernels of embedding tables against NumPy: places, pooled look-ups of every width, optimizer steps."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from umem.embedding.quantised import quantise, restored
from umem.kernels.embedding.bags import CPU_POOL
from umem.kernels.embedding.places import NOTHING_BAD, cpu_copy_rows, cpu_place_rows, cpu_store_rows
from umem.kernels.embedding.update import CPU_UPDATE, NUM_SETTINGS, RATE, state_bytes_of

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


@settings(max_examples=60, deadline=None)
@example(list(range(28)), 28, 1, 64)
@example(list(range(28)), 28, 3, 64)  # which divides
@example(list(range(28)), 28, 4, 64)  # which shifts
@given(
    ids=st.lists(st.integers(-2, 30), max_size=40),
    num_rows=st.integers(0, 28),
    num_homes=st.integers(1, 9),
    row_bytes=st.integers(1, 600),
)
def test_rows_lie_at_homes_in_turn(ids, num_rows, num_homes, row_bytes):
    wanted, bases = np.array(ids, np.int64), np.arange(num_homes) * 1_000_003 + 17
    places = np.zeros(len(ids) + 1, np.int64)
    bad = cpu_place_rows(
        places.ctypes.data, wanted.ctypes.data, len(ids), num_rows, bases.ctypes.data, num_homes, row_bytes
    )
    outside = np.flatnonzero((wanted < 0) | (wanted >= num_rows))
    assert bad == (outside[0] if len(outside) else NOTHING_BAD)
    good = slice(0, outside[0] if len(outside) else len(ids))
    expected = bases[wanted[good] % num_homes] + wanted[good] // num_homes * row_bytes
    assert np.array_equal(places[good], expected) and places[-1] == 0


@pytest.mark.parametrize("row_type", DTYPES)
@pytest.mark.parametrize("num_columns", [1, 3, 15, 16, 17, 31, 64, 100, 256, 300, 1000])
def test_bags_of_every_width(row_type, num_columns):
    made = np.random.default_rng(num_columns)
    table = made.integers(-9, 9, (50, num_columns + 1)).astype(DTYPES[row_type])[
        :, 1:
    ]  # rows are not aligned
    ids, offsets = made.integers(0, 50, 90), np.array([0, 0, 3, 60, 60, 90])
    places = table.ctypes.data + ids * table.strides[0]
    weights = made.integers(1, 4, 90).astype(np.float32)
    for mode, given_weights in (("sum", None), ("sum", weights), ("max", None)):
        out = np.full((5, num_columns + 4), -1, np.float32)
        CPU_POOL[mode, row_type](
            out.ctypes.data + 8,
            out.strides[0],
            places.ctypes.data,
            0 if given_weights is None else given_weights.ctypes.data,
            offsets.ctypes.data,
            5,
            num_columns,
        )
        rows = table[ids].astype(np.float32) * (1 if given_weights is None else given_weights[:, None])
        for bag in range(5):
            chosen = rows[offsets[bag] : offsets[bag + 1]]
            wanted = (
                (chosen.sum(0) if mode == "sum" else chosen.max(0)) if len(chosen) else np.zeros(num_columns)
            )
            assert np.array_equal(out[bag, 2:-2], wanted), (mode, bag)
        assert (out[:, :2] == -1).all() and (out[:, -2:] == -1).all()


@pytest.mark.parametrize("row_bytes", [1, 7, 64, 256, 3000])
def test_rows_are_copied_and_stored(row_bytes):
    made = np.random.default_rng(row_bytes)
    table = made.integers(0, 255, (40, row_bytes), np.uint8)
    ids = made.permutation(40)[:33]
    places = table.ctypes.data + ids * row_bytes
    out = np.zeros((33, row_bytes + 5), np.uint8)
    cpu_copy_rows(out.ctypes.data, out.strides[0], places.ctypes.data, 33, row_bytes)
    assert np.array_equal(out[:, :row_bytes], table[ids]) and not out[:, row_bytes:].any()
    new = made.integers(0, 255, (33, row_bytes + 2), np.uint8)
    before = table.copy()
    cpu_store_rows(places.ctypes.data, new.ctypes.data, new.strides[0], 33, row_bytes)
    before[ids] = new[:, :row_bytes]
    assert np.array_equal(table, before)


@pytest.mark.parametrize("row_type", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_only_named_rows_are_stepped(optimizer, row_type):
    made = np.random.default_rng(1)
    rows = made.standard_normal((20, 13)).astype(DTYPES[row_type])
    state_bytes = state_bytes_of(optimizer, 13)
    states = np.zeros((20, max(state_bytes // 4, 1)), np.float32)
    slots, gradients = np.array([3, 19, 0]), made.standard_normal((3, 13)).astype(np.float32)
    given_settings = np.zeros(NUM_SETTINGS, np.float32)
    given_settings[:] = 1e-3, 1e-8, 0.9, 0.999, 0.1, 0.0316, 0, 0
    given_settings[RATE] = 0.5
    before = rows.copy()
    CPU_UPDATE[optimizer, row_type](
        rows.ctypes.data,
        rows.strides[0],
        states.ctypes.data,
        state_bytes,
        slots.ctypes.data,
        3,
        gradients.ctypes.data,
        13,
        given_settings.ctypes.data,
    )
    untouched = np.setdiff1d(np.arange(20), slots)
    assert np.array_equal(rows[untouched], before[untouched])
    moved = before[slots].astype(np.float32) - rows[slots].astype(np.float32)
    assert (np.sign(moved) == np.sign(gradients)).mean() > 0.9
    if optimizer == "sgd":
        wanted = before[slots].astype(np.float32) - np.float32(0.5) * gradients
        assert np.array_equal(rows[slots], wanted.astype(DTYPES[row_type]))
    else:
        assert states[slots].any(1).all() and not states[untouched].any()


@pytest.mark.parametrize("num_columns", [1, 15, 16, 64, 300])
def test_bags_of_quantised_rows(num_columns):
    made = np.random.default_rng(num_columns)
    rows = quantise(made.standard_normal((40, num_columns)).astype(np.float32))
    ids, offsets = made.integers(0, 40, 50), np.array([0, 0, 3, 50])
    places, weights = rows.ctypes.data + ids * rows.strides[0], made.random(50).astype(np.float32)
    values = restored(rows)[ids]
    for mode, given_weights in (("sum", None), ("sum", weights), ("max", None)):
        out = np.full((3, num_columns), -1, np.float32)
        CPU_POOL[mode, "q8"](
            out.ctypes.data,
            out.strides[0],
            places.ctypes.data,
            0 if given_weights is None else given_weights.ctypes.data,
            offsets.ctypes.data,
            3,
            num_columns,
        )
        weighted = values if given_weights is None else values * given_weights[:, None]
        for bag, (begin, end) in enumerate(pairwise(offsets)):
            chosen = weighted[begin:end].astype(np.float64)
            wanted = (chosen.sum(0) if mode == "sum" else chosen.max(0)) if end > begin else 0
            assert np.allclose(out[bag], wanted, atol=1e-4), (mode, bag)


def test_quantised_rows_are_within_half_a_level():
    made = np.random.default_rng(3)
    rows = np.vstack(
        [made.standard_normal((20, 33)), np.full((1, 33), 2.5), made.random((1, 33)) * 1e30]
    ).astype(np.float32)
    levels = (rows.max(1) - rows.min(1))[:, None] / 255
    assert (np.abs(restored(quantise(rows)) - rows) <= 0.51 * levels + 1e-6 * np.abs(rows)).all()
    assert quantise(np.empty((0, 5), np.float32)).shape == (0, 13)
