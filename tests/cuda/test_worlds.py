"""The worlds suite on GPU ranks: the promises of the mapped world, on one device and two, mixed with ranks of the CPU.

On the driver that executes (driver/), plain, under weak memory, and strict. What memory of a GPU does not offer is
waived by name, in the checks themselves.
"""

from __future__ import annotations

import functools

import pytest
from worlds import GpuWorlds, places

import umem
from tests.worlds import checks_heap, checks_space
from tests.worlds.outcomes import run_checks

CHECKS = {**checks_space.CHECKS, **checks_heap.CHECKS}
DEVICES = ("cuda:0", "cuda:0,cuda:1", "cuda,cpu")
SOAKS = [
    (4, "cuda:0", "strict"),
    (4, "cuda:0,cuda:1", "plain"),
    (4, "cuda,cpu", "weak"),
    (2, "cuda:0", "weak"),
    (2, "cuda:0,cuda:1", "strict"),
    (2, "cuda,cpu", "plain"),
]
WORLDS = [
    (2, "cuda", "plain"),
    (2, "cuda:0,cuda:1", "weak"),
    (2, "cuda,cpu", "strict"),
    *(pytest.param(*world, marks=pytest.mark.soak) for world in SOAKS),
    *(
        pytest.param(ranks, device, mode, marks=pytest.mark.long)
        for ranks in (2, 4)
        for device in DEVICES
        for mode in ("plain", "weak", "strict")
    ),
]


def run_all(space: umem.Space) -> dict[str, str]:
    """Outcome of each check in this rank."""
    return run_checks(space, CHECKS)


@functools.cache
def outcomes(worlds: GpuWorlds, ranks: int, device: str, mode: str) -> list[dict[str, str]]:
    """What every rank of one launch reports."""
    return worlds.launch(run_all, ranks, device, mode, segment="128M")


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("ranks", "device", "mode"), places(WORLDS), ids=str)
def test_gpu_ranks(gpu_worlds, ranks, device, mode, check):
    for rank, outcome in enumerate(outcomes(gpu_worlds, ranks, device, mode)):
        told = outcome.get(check, outcome.get("stopped"))
        if told.startswith("skipped"):
            pytest.skip(told)
        assert told == "ok", f"rank {rank}: {told}"
