"""Embedding tables against NumPy, in every rank of a world: run by test_embedding.py."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import pytest

from umem.collectives import Team
from umem.embedding import EmbeddingTable, load, save, training
from umem.embedding.bags import bags_of
from umem.errors import AddressError, ArgumentTypeError, ConfigError, OutOfMemory, UnknownName

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NUM_ROWS = 503


def contents(num_columns, dtype):
    """Rows whose sums of a few are exact, also in halves."""
    rows = np.arange(NUM_ROWS)[:, None] * 7 % 61 + np.arange(num_columns)[None, :] % 13
    return (rows - 20).astype(DTYPES[dtype])


def filled(space, team, num_columns, dtype, placement):
    table = EmbeddingTable(team, NUM_ROWS, num_columns, dtype, placement)
    if space.rank == space.num_ranks - 1:
        table.update_rows(np.arange(NUM_ROWS), contents(num_columns, dtype))
    team.barrier()
    return table


def ragged(seed, num_bags=40):
    made = np.random.default_rng(seed)
    counts = made.integers(0, 30, num_bags)
    counts[[0, 7, -1]] = 0
    ids = made.integers(0, NUM_ROWS, counts.sum())
    return ids, np.cumsum(counts) - counts, counts


def pooled(rows, ids, counts, mode, weights=None):
    """What each bag gives."""
    out = np.zeros((len(counts), rows.shape[1]), np.float32)
    begin = 0
    for bag, count in enumerate(counts):
        chosen = rows[ids[begin : begin + count]].astype(np.float32)
        if weights is not None:
            chosen = chosen * weights[begin : begin + count, None]
        if count:
            out[bag] = chosen.max(0) if mode == "max" else chosen.sum(0, dtype=np.float64)
            out[bag] /= count if mode == "mean" else 1
        begin += count
    return out


def check_lookups(space, dtypes, placements):
    team = Team(space)
    for dtype in dtypes:
        for placement in placements:
            for num_columns in (1, 5, 16, 37, 64, 200):
                rows = contents(num_columns, dtype)
                table = filled(space, team, num_columns, dtype, placement)
                ids, offsets, counts = ragged(space.rank)
                got = table.lookup(ids.reshape(1, -1))
                assert got.dtype == rows.dtype and np.array_equal(got[0], rows[ids])
                assert table.lookup([]).shape == (0, num_columns)
                for mode in ("sum", "mean", "max"):
                    got = table.pool(ids, offsets, mode)
                    assert np.allclose(got, pooled(rows, ids, counts, mode), rtol=1e-5, atol=1e-5), (
                        dtype,
                        placement,
                        mode,
                    )
                weights = np.arange(len(ids), dtype=np.float32) % 5
                got = table.pool(ids, offsets, weights=weights)
                assert np.allclose(got, pooled(rows, ids, counts, "sum", weights))
                matrix = ids[: len(ids) // 3 * 3].reshape(-1, 3)
                assert np.array_equal(
                    table.pool(matrix), pooled(rows, matrix.reshape(-1), [3] * len(matrix), "sum")
                )
                kept = ids != ids[0]
                bag_of = np.repeat(np.arange(len(counts)), counts)
                fewer = np.bincount(bag_of[kept], minlength=len(counts))
                got = table.pool(ids, offsets, "mean", padding_index=int(ids[0]))
                assert np.allclose(got, pooled(rows, ids[kept], fewer, "mean"), rtol=1e-5, atol=1e-5)
                whole = table.pool(ids, np.append(offsets, len(ids)), includes_last=True)
                assert np.array_equal(whole, table.pool(ids, offsets))
                team.barrier()
                table.close()
    team.close()


def check_training(space, optimizer, dtype, placement):
    """A digest of the weights after some steps: the same however many ranks share the batch."""
    team = Team(space)
    table = EmbeddingTable(team, NUM_ROWS, 24, dtype, placement, optimizer)
    made = np.random.default_rng(5)
    if space.rank == 0:
        table.update_rows(np.arange(NUM_ROWS), made.standard_normal((NUM_ROWS, 24)))
    team.barrier()
    first = table.lookup(np.arange(NUM_ROWS)).astype(np.float64)
    expected = Reference(optimizer, first)
    made = np.random.default_rng(6)
    for _ in range(4):
        num_bags = 48
        counts = made.integers(0, 9, num_bags)
        ids = made.integers(0, 80, counts.sum())  # many of them several times
        gradients = made.standard_normal((num_bags, 24)).astype(np.float32)
        cuts = np.concatenate([[0], np.cumsum(counts)])
        begin, end = (num_bags * part // space.num_ranks for part in (space.rank, space.rank + 1))
        own = ids[cuts[begin] : cuts[end]]
        bags = bags_of(own, cuts[begin:end] - cuts[begin])
        training.step(table, bags, gradients[begin:end], rate=0.1, epsilon=1e-6)
        expected.step(ids, np.repeat(gradients, counts, axis=0))
    after = table.lookup(np.arange(NUM_ROWS))
    tolerance = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-1}[dtype]
    assert np.allclose(after.astype(np.float64), expected.rows, atol=tolerance)
    assert not np.array_equal(after.astype(np.float64), first)
    team.barrier()
    table.close()
    return hashlib.sha256(after.tobytes()).hexdigest()


class Reference:
    """The optimizers, in float64."""

    def __init__(self, optimizer, rows):
        self.optimizer, self.rows, self.num_steps = optimizer, rows.copy(), 0
        self.first, self.second = np.zeros_like(rows), np.zeros_like(rows)
        self.total = np.zeros(len(rows))

    def step(self, ids, gradients):
        self.num_steps += 1
        for row in np.unique(ids):
            change = gradients[ids == row].astype(np.float64).sum(0)
            if self.optimizer == "sgd":
                self.rows[row] -= 0.1 * change
            elif self.optimizer == "adagrad":
                self.total[row] += np.square(change).mean()
                self.rows[row] -= 0.1 * change / (np.sqrt(self.total[row]) + 1e-6)
            else:
                self.first[row] = 0.9 * self.first[row] + 0.1 * change
                self.second[row] = 0.999 * self.second[row] + 0.001 * change**2
                rate = 0.1 * np.sqrt(1 - 0.999**self.num_steps) / (1 - 0.9**self.num_steps)
                self.rows[row] -= rate * self.first[row] / (np.sqrt(self.second[row]) + 1e-6)


def check_refusals(space):
    team = Team(space)
    table = EmbeddingTable(team, 10, 4, optimizer="sgd")
    bags = bags_of([1, 2], [0])
    refused = [
        (AddressError, "id 10 at position 2", lambda: table.lookup([0, 9, 10])),
        (AddressError, "id -1 at position 0", lambda: table.pool([-1], [0])),
        (ArgumentTypeError, "whole numbers", lambda: table.lookup([0.5])),
        (ConfigError, "offset 0 is 1", lambda: table.pool([1, 2], [1])),
        (ConfigError, "offset 2 is 1, below", lambda: table.pool([1, 2], [0, 2, 1])),
        (ConfigError, "offset 1 is 3, beyond", lambda: table.pool([1, 2], [0, 3])),
        (ConfigError, "no offsets", lambda: table.pool([1, 2], [])),
        (ConfigError, "takes no offsets", lambda: table.pool([[1, 2]], [0])),
        (ConfigError, "the last offset", lambda: table.pool([1, 2], [0, 1], includes_last=True)),
        (ConfigError, "weight 1 is NaN", lambda: table.pool([1, 2], [0], weights=[1, np.nan])),
        (ConfigError, "3 weights for 2", lambda: table.pool([1, 2], [0], weights=[1, 1, 1])),
        (ConfigError, "weights go with sums", lambda: table.pool([1, 2], [0], "mean", weights=[1, 1])),
        (ConfigError, "mode='median'", lambda: table.pool([1, 2], [0], "median")),
        (ConfigError, "named twice", lambda: table.update_rows([1, 1], np.zeros((2, 4)))),
        (ConfigError, "1 rows for 2", lambda: table.update_rows([1, 2], np.zeros((1, 4)))),
        (ConfigError, "gradients of shape", lambda: training.step(table, bags, np.zeros((1, 3)), 0.1)),
        (AddressError, "id 11", lambda: training.step(table, bags_of([11], [0]), np.zeros((1, 4)), 0.1)),
        (ConfigError, "placement", lambda: EmbeddingTable(team, 10, 4, placement="blocks")),
        (ArgumentTypeError, "int32", lambda: EmbeddingTable(team, 10, 4, "int32")),
        (UnknownName, "optimizer", lambda: EmbeddingTable(team, 10, 4, optimizer="lion")),
        (OutOfMemory, "no memory for their part", lambda: EmbeddingTable(team, 1 << 30, 64)),
    ]
    for kind, text, call in refused:
        with pytest.raises(kind, match=text):
            call()
    # What a table that does not fit had taken is free again, also where its states alone have no room.
    team.barrier()
    before = len(space.heap.snapshot())
    team.barrier()
    with pytest.raises(OutOfMemory):
        EmbeddingTable(team, 15_000, 128, optimizer="adam")
    team.barrier()
    assert len(space.heap.snapshot()) == before
    assert table.pool([], []).shape == (0, 4)
    assert not table.pool([], [0, 0]).any()
    table.close()
    # A table ends where another begins: the first id behind it is no row of its neighbour's.
    tables = [EmbeddingTable(team, 8, 16) for _ in range(2)]
    for table in tables:
        with pytest.raises(AddressError, match="id 8"):
            table.lookup([8])


def check_quantised(space, folder):
    """Rows of int8: looked up and pooled as what they stand for, saved and loaded."""
    team = Team(space)
    given = np.random.default_rng(8).standard_normal((NUM_ROWS, 40)).astype(np.float32)
    for placement in ("rows", "columns"):
        table = EmbeddingTable(team, NUM_ROWS, 40, "int8", placement)
        if space.rank == 0:
            table.update_rows(np.arange(NUM_ROWS), given)
        team.barrier()
        rows = table.lookup(np.arange(NUM_ROWS))
        assert rows.dtype == np.float32 and np.abs(rows - given).max() < (given.max() - given.min()) / 255
        ids, offsets, counts = ragged(space.rank)
        for mode in ("sum", "mean", "max"):
            assert np.allclose(table.pool(ids, offsets, mode), pooled(rows, ids, counts, mode), atol=1e-3)
        save(table, f"{folder}/{placement}")
        other = EmbeddingTable(team, NUM_ROWS, 40, "int8", placement)
        load(other, f"{folder}/{placement}")
        assert np.array_equal(other.lookup(np.arange(NUM_ROWS)), rows)
    with pytest.raises(ConfigError, match="not trained"):
        EmbeddingTable(team, NUM_ROWS, 40, "int8", optimizer="sgd")
