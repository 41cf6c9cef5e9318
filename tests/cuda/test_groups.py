"""Groups of lanes over ranks: puts with signals, a barrier with a deadline, litmus tests, on the driver that executes.

Litmus: blocks of one device, two ranks' devices over each other's HBM, a GPU rank and a CPU rank over host memory.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import group_work
from worlds import GpuWorlds

NUM_INSTANCES, NUM_IN_SOAK = 1000, 10_000
FORBIDDEN = {"CoRR": 2, "MP": 2, "SB": 0, "LB": 3, "MP relaxed": 2, "SB unfenced": 0}
ORDERED, UNORDERED = ("CoRR", "MP", "SB", "LB"), ("MP relaxed", "SB unfenced")
DEVICES = {1: ("cuda",), 2: ("cuda:0,cuda:1", "cuda,cpu")}
KINDS = [(ranks, device) for ranks, devices in DEVICES.items() for device in devices]


@functools.cache
def passed(worlds: GpuWorlds, device: str, mode: str) -> list[list[str]]:
    return worlds.launch(group_work.run_all, 2, device, mode)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [check.__name__ for check in group_work.CHECKS])
@pytest.mark.parametrize(
    ("device", "mode"), [("cuda", "weak"), ("cuda:0,cuda:1", "weak"), ("cuda,cpu", "plain")]
)
def test_group(gpu_worlds, device, mode, check):
    """Two ranks on one device, on two devices, and a GPU rank with a CPU rank."""
    assert all(check in names for names in passed(gpu_worlds, device, mode))


def counts(worlds: GpuWorlds, ranks: int, device: str, mode: str, num: int, names: tuple[str, ...]) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITMUS_INSTANCES", str(num))
        patch.setenv("LITMUS_TESTS", ",".join(names))
        found, *_ = worlds.launch(group_work.litmus, ranks, device, mode, fake={"switch": 20})
    return found


def judge(found: dict, num: int) -> None:
    """None forbidden; of each test several ends, over both turns."""
    for name in {name for name, _ in found}:
        of_turns = [ends for (of, _), ends in found.items() if of == name]
        assert all(sum(ends) == num for ends in of_turns), (name, of_turns)
        assert all(ends[FORBIDDEN[name]] == 0 for ends in of_turns), (name, of_turns)
        assert sum(any(ends[n] for ends in of_turns) for n in range(4)) > 1, (name, of_turns)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ranks", "device"), KINDS)
def test_litmus_has_several_ends_and_none_that_is_forbidden(gpu_worlds, ranks, device):
    judge(counts(gpu_worlds, ranks, device, "weak", NUM_INSTANCES, ORDERED), NUM_INSTANCES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ranks", "device"), KINDS)
def test_litmus_without_its_orderings_shows(gpu_worlds, ranks, device):
    """A test that shows nothing forbidden proves nothing where it cannot show it."""
    found = counts(gpu_worlds, ranks, device, "weak", NUM_INSTANCES, UNORDERED)
    # The CPU's half of a pair is as strong as x86: there MP shows by luck alone.
    for name in UNORDERED if "cpu" not in device else ["SB unfenced"]:
        assert sum(ends[FORBIDDEN[name]] for (of, _), ends in found.items() if of == name), found


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["plain", "weak"])
@pytest.mark.parametrize(("ranks", "device"), KINDS)
def test_litmus_soak(gpu_worlds, ranks, device, mode, soak_factor):
    num = NUM_IN_SOAK * soak_factor
    found = counts(gpu_worlds, ranks, device, mode, num, ORDERED)
    print(device, mode, found)
    judge(found, num)
