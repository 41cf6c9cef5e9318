"""Collectives of teams with GPU ranks, on the driver that executes: one device, two, mixed with ranks of the CPU."""

from __future__ import annotations

import functools

import collective_work
import pytest
from worlds import GpuWorlds, places

from tests.worlds.checks_collectives import OPERATIONS
from tests.worlds.outcomes import named, run_checks
from tests.worlds.test_collectives import DTYPES
from umem.errors import LaunchError

CHECKS = named(*collective_work.CHECKS)
WORLDS = [
    (2, "cuda:0", "weak"),
    (2, "cuda,cpu", "strict"),
    *(
        pytest.param(ranks, device, mode, marks=pytest.mark.soak)
        for ranks, device, mode in [
            (4, "cuda:0,cuda:1", "plain"),
            (4, "cuda,cpu", "weak"),
            (2, "cuda:0,cuda:1", "strict"),
        ]
    ),
]


def run_all(space):
    """Outcome of each check in this rank."""
    return run_checks(space, CHECKS)


@functools.cache
def outcomes(worlds: GpuWorlds, ranks: int, device: str, mode: str) -> list[dict[str, str]]:
    """What every rank of one launch reports."""
    return worlds.launch(run_all, ranks, device, mode)


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("ranks", "device", "mode"), places(WORLDS), ids=str)
def test_collectives(gpu_worlds, ranks, device, mode, check):
    for rank, outcome in enumerate(outcomes(gpu_worlds, ranks, device, mode)):
        told = outcome.get(check, outcome.get("stopped"))
        assert told == "ok", f"rank {rank}: {told}"


@pytest.mark.timeout(200)
def test_gpus_that_are_no_peers_meet_in_host_memory(gpu_worlds):
    gpu_worlds.launch(collective_work.ranks_without_peers, 2, "cuda:0,cuda:1", fake={"peers": 0})


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_tensors(gpu_worlds):
    pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
    gpu_worlds.launch(collective_work.tensors, 2, "cuda")


@pytest.mark.gpu
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ranks", "device", "mode"), places([(4, "cuda:0,cuda:1", "plain"), (3, "cuda,cpu", "weak")])
)
def test_operations_of_several_rounds(gpu_worlds, ranks, device, mode):
    gpu_worlds.launch(collective_work.rounds, ranks, device, mode, segment="128M")


@pytest.mark.gpu
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions_of_every_type(gpu_worlds, dtype):
    gpu_worlds.launch(collective_work.every_type, 3, "cuda", args=([dtype], OPERATIONS), timeout_s=300)


@pytest.mark.gpu
@pytest.mark.timeout(200)
@pytest.mark.parametrize("num", [1, 1 << 16])
def test_a_member_that_dies(gpu_worlds, num):
    options = {"timeout_s": 30, "on_failure": "continue", "args": (num,)}
    *survivors, died = gpu_worlds.launch(collective_work.a_member_dies, 3, "cuda,cpu", **options)
    assert isinstance(died, LaunchError) and "SIGKILL" in str(died)
    assert survivors == [None, None]
