"""The same promises in all three worlds, with 1 to 8 ranks: one launch a world, one test a promise."""

from __future__ import annotations

import functools
from importlib.util import find_spec

import pytest

import umem

from . import checks_space

PRELOAD = ("torch",) if find_spec("torch") else ()  # once, and not by eight ranks at a time
WORLDS = [
    ("mapped", 1),
    ("mapped", 2),
    pytest.param("mapped", 4, marks=pytest.mark.soak),
    ("mapped", 8),
    ("no-peer-access", 2),
    pytest.param("no-peer-access", 8, marks=pytest.mark.soak),
    pytest.param("hosts", 2, marks=pytest.mark.soak),
    ("hosts", 4),
]


@functools.cache
def outcomes(world: str, ranks: int) -> list[dict[str, str]]:
    """What every rank of one launch reports."""
    return umem.launch(
        checks_space.run_all,
        ranks=ranks,
        world=world,
        segment="128M",
        timeout_s=60,
        results="all",
        preload=PRELOAD,
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
