"""GPU ranks: kernels of one source on whatever a rank works on, what is refused, and what peers hear of a failure."""

from __future__ import annotations

import functools
import runpy
import sys
from pathlib import Path

import gpu_work
import pytest
from worlds import GpuWorlds, places

import umem
from umem.errors import DeviceError, DeviceMissing, LaunchError, SegmentTooLarge, UnknownName, WaitTimeout

HEARD_S = 20  # of a death, under any load; umem verify faults measures the time itself


WORLDS = [(2, "cuda", "plain"), (2, "cuda:0,cuda:1", "weak"), (2, "cuda,cpu", "strict")]


@functools.cache
def passed(worlds: GpuWorlds, ranks: int, device: str, mode: str) -> list[list[str]]:
    return worlds.launch(gpu_work.run_all, ranks, device, mode)


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [check.__name__ for check in gpu_work.CHECKS])
@pytest.mark.parametrize(("ranks", "device", "mode"), places(WORLDS))
def test_gpu(gpu_worlds, ranks, device, mode, check):
    assert all(check in names for names in passed(gpu_worlds, ranks, device, mode))


@pytest.mark.gpu
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("work", "error"),
    [
        (gpu_work.peer_of_a_fault, DeviceError),
        (gpu_work.peer_of_a_kernel_without_end, WaitTimeout),
        (gpu_work.peer_of_a_killed_rank, LaunchError),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_peers_hear_of_a_rank_whose_gpu_fails(gpu_worlds, work, error):
    failed, heard_s = gpu_worlds.launch(work, on_failure="continue")
    assert isinstance(failed, error), failed
    print(
        f"{work.__name__}: heard after {heard_s:.3f} s"
    )  # a kernel without end is waited for, for half a second
    assert heard_s < HEARD_S


@pytest.mark.timeout(200)
def test_streams_without_words_of_their_own_use_a_kernel(gpu_worlds):
    gpu_worlds.launch(gpu_work.streams_of_words, 2, "cuda:0,cuda:1", "weak", fake={"stream_words": 0})


@pytest.mark.timeout(200)
def test_gpus_that_are_no_peers(gpu_worlds):
    gpu_worlds.launch(gpu_work.ranks_without_peers, 2, "cuda:0,cuda:1", "strict", fake={"peers": 0})


@pytest.mark.timeout(200)
def test_what_is_missing_is_named(gpu_worlds, monkeypatch):
    with pytest.raises(DeviceMissing, match=r"no cuda:7; this machine has 2 CUDA devices"):
        gpu_worlds.launch(gpu_work.run_all, 1, "cuda:7")
    with pytest.raises(DeviceMissing, match="virtual memory management"):
        gpu_worlds.launch(gpu_work.run_all, 1, fake={"shares": 0})
    with pytest.raises(SegmentTooLarge, match="out of memory"):
        gpu_worlds.launch(gpu_work.run_all, 1, segment="512M", fake={"memory": 128})
    with pytest.raises(UnknownName, match="device"):
        gpu_worlds.launch(gpu_work.run_all, 1, "gpu")


def modules_of_gpus(space):
    return sorted(
        name
        for name in sys.modules
        if name.split(".")[0] in ("cuda", "nvidia", "cupy")
        or name.startswith(
            ("numba.cuda", "numba_cuda.", "umem.memory.device.cuda", "umem.agent.serving.gpu_memory")
        )
    )


def test_a_rank_of_the_cpu_loads_nothing_of_cuda():
    assert umem.launch(modules_of_gpus, ranks=2, segment="32M", results="all") == [[], []]


@pytest.mark.timeout(200)
def test_the_example_of_any_device_runs_on_gpus(gpu_worlds):
    example = Path(__file__).parents[2] / "examples" / "any_device.py"
    assert gpu_worlds.launch(runpy.run_path(str(example))["work"], 2, "cuda,cpu") == [1000, 1000]
