"""Collectives of the benchmark: what must stand in buffers, and that what does not is counted."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.harness.collective import (
    IN_PLACE,
    ITEM_BYTES,
    REDUCTIONS,
    TILE_BYTES,
    Operation,
)
from umem.bench.parts import collective_loops as loops
from umem.bench.parts.collective import moves_of
from umem.bench.parts.touch import PLAN_LAP, Plan, operations_in_sample
from umem.collectives.buffers import COMBINABLE
from umem.kernels.data.reduce import OPERATION_NAMES

RANKS = 3
NAMES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
BYTES = 3 * 2 * TILE_BYTES + 3 * 8  # blocks of two tiles and a word


def buffers_of(operation):
    return [np.zeros(operation.num_bytes, np.uint8) for _ in range(operation.num_buffers)]


def make(name, rank, in_place=False, **more):
    """(operation, its buffers, input, output, plan) of a rank."""
    operation = Operation(name, BYTES, RANKS, rank, in_place=in_place, **more)
    buffers = buffers_of(operation)
    src, dst = operation.places([buffer.ctypes.data for buffer in buffers])
    src_at, dst_at = src - buffers[0].ctypes.data, dst - buffers[-1].ctypes.data
    source = buffers[0][src_at : src_at + operation.src_bytes]
    result = buffers[-1][dst_at : dst_at + operation.dst_bytes]
    return operation, source, result, Plan(operation, src, dst)


def simulate(name, members):
    """Do the operation in NumPy, on float32."""
    sources = [source.view(np.float32).copy() for _, source, _, _ in members]
    blocks = [source.reshape(RANKS, -1) if len(source) % RANKS == 0 else None for source in sources]
    for rank, (_, _, result, _) in enumerate(members):
        result.view(np.float32)[:] = {
            "all_reduce": lambda: sum(sources),
            "all_gather": lambda: np.concatenate(sources),
            "reduce_scatter": lambda rank=rank: sum(block[rank] for block in blocks),
            "broadcast": lambda: sources[0],
            "all_to_all": lambda rank=rank: np.concatenate([block[rank] for block in blocks]),
        }[name]()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_an_operation_leaves_is_right_and_what_another_left_is_wrong(name, in_place):
    if in_place and name not in IN_PLACE:
        pytest.skip("is never in place")
    members = [make(name, rank, in_place) for rank in range(RANKS)]
    for lap in range(3):
        for _, _, _, plan in members:
            assert plan.words[PLAN_LAP] == lap
            plan.write_inputs()
        simulate(name, members)
        for operation, _, result, plan in members:
            plan.read_outputs()
            assert plan.num_wrong() == 0
            plan.words[PLAN_LAP] = lap
            result[-1] ^= 1
            plan.read_outputs()
            assert plan.num_wrong() == 1
            result[-1] ^= 1
            plan.read_outputs()  # an operation that does nothing leaves what was there
            assert plan.num_wrong() > operation.dst_bytes // 16
            plan.words[PLAN_LAP] = lap + 1


@pytest.mark.parametrize("name", NAMES)
def test_no_rank_finds_its_result_in_its_input(name):
    for rank in range(RANKS):
        operation, source, result, plan = make(name, rank)
        plan.write_inputs()
        result[:] = np.resize(source, len(result))
        plan.read_outputs()
        is_root = name == "broadcast" and rank == 0
        assert (plan.num_wrong() == 0) == is_root, operation


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_results_are_exact_in_every_type(dtype, op):
    operation = Operation("all_reduce", 1 << 10, 8, 0, dtype, op)
    ((_, tile, length),) = operation.after(0, 0)
    assert length == 1 << 10
    assert len(tile) == TILE_BYTES
    if dtype == "float32":
        values = np.frombuffer(tile, np.float32)
        inputs = [
            np.frombuffer(Operation("all_reduce", 1 << 10, 8, rank, dtype, op).before(0, 0)[0][1], np.float32)
            for rank in range(8)
        ]
        combined = {
            "sum": sum(inputs),
            "avg": sum(inputs) / 8,
            "prod": np.prod(inputs, axis=0),
            "min": np.min(inputs, axis=0),
            "max": np.max(inputs, axis=0),
        }[op]
        assert (values == combined).all()


def test_types_and_reductions_are_those_of_teams():
    assert set(ITEM_BYTES) == set(COMBINABLE) - {"bool"}
    assert REDUCTIONS == OPERATION_NAMES


@pytest.mark.parametrize(
    ("name", "in_place", "read", "written"),
    [  # bytes of a rank of an operation of 1 on two ranks, which is what each must do
        ("all_reduce", False, 1, 1),
        ("all_reduce", True, 1, 1),
        ("all_gather", False, 1 / 2, 1),
        ("all_gather", True, 1 / 2, 1 / 2),
        ("reduce_scatter", False, 1, 1 / 2),
        ("reduce_scatter", True, 1, 1 / 2),
        ("broadcast", False, 1 / 2, 1 / 2),
        ("all_to_all", False, 1, 1),
    ],
)
def test_a_floor_moves_what_the_operation_must(name, in_place, read, written):
    size = 1 << 12
    places = [[0x10000 * (rank + 1), 0x90000 * (rank + 1)] for rank in range(2)]
    rows, num_bytes = moves_of(Operation(name, size, 2, 1, in_place=in_place), places)
    sources = {src if kind != loops.UPDATE else dst for kind, dst, src in rows}
    targets = {dst for kind, dst, _ in rows if kind != loops.READ}
    assert len(sources) * num_bytes == read * size
    assert len(targets) * num_bytes == written * size


def test_short_operations_share_a_clock_and_long_ones_do_not():
    short, long = (Operation("all_reduce", size, 2, 0) for size in (8, 4096))
    assert operations_in_sample(short, True) > operations_in_sample(short, False) > 1
    assert operations_in_sample(long, True) == 1
