"""The heap in all three worlds: one launch a world, one test a promise."""

from __future__ import annotations

import functools

import pytest

import umem
from umem.errors import UmemError

from . import checks_heap

WORLDS = [("mapped", 1), ("mapped", 3), ("no-peer-access", 2), ("hosts", 2)]


@functools.cache
def outcomes(world: str, ranks: int) -> list[dict[str, str]]:
    """What every rank of one launch reports."""
    return umem.launch(
        checks_heap.run_all, ranks=ranks, world=world, segment="64M", timeout_s=10, results="all"
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", checks_heap.CHECKS)
@pytest.mark.parametrize(("world", "ranks"), WORLDS, ids=str)
def test_heap(world, ranks, check):
    for rank, outcome in enumerate(outcomes(world, ranks)):
        told = outcome.get(check, outcome.get("stopped"))
        assert told == "ok", f"rank {rank}: {told}"


def test_what_a_dead_rank_had_is_taken_back(run_world, world_kind):
    results = run_world(
        checks_heap.lose_a_rank, 2, world_kind, args=(1,), on_failure="continue", segment="64M"
    )
    assert isinstance(results[1], UmemError)
    assert results[0] == [], "arenas of rank 0 in which rank 1 still has something"
