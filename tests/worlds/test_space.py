"""The same promises in all three worlds, with 1, 2 and 4 ranks: one launch a world, one test a promise."""

from __future__ import annotations

import functools

import pytest

import umem

from . import checks_space

WORLDS = [
    ("mapped", 1),
    ("mapped", 2),
    ("mapped", 4),
    ("no-peer-access", 2),
    ("no-peer-access", 4),
    ("hosts", 2),
    ("hosts", 4),
]


@functools.cache
def outcomes(world: str, ranks: int) -> list[dict[str, str]]:
    """What every rank of one launch reports."""
    return umem.launch(
        checks_space.run_all, ranks=ranks, world=world, segment="128M", timeout_s=60, results="all"
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", checks_space.CHECKS)
@pytest.mark.parametrize(("world", "ranks"), WORLDS, ids=str)
def test_space(world, ranks, check):
    for rank, outcome in enumerate(outcomes(world, ranks)):
        told = outcome.get(check, outcome.get("stopped"))
        if told.startswith("skipped"):
            pytest.skip(told)
        assert told == "ok", f"rank {rank}: {told}"
