"""Soaks on the driver: kernels in a world of ranks, gpu-check, seeds, every intrinsic. Minutes."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")

WEAK = {"weak": 1, "switch": 3}
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


NONE_MISSING = "unchanged 0 0 0 0 of 12800 are missing"


def test_no_coherent_addition_is_lost(run_steps):
    assert NONE_MISSING in run_steps("run_all", module="world_steps", timeout_s=400).splitlines()


def test_under_weak_memory_only_a_kernel_without_its_orderings_loses_additions(run_steps):
    told = run_steps("run_all", module="world_steps", timeout_s=400, **WEAK).splitlines()
    assert NONE_MISSING in told
    (changed,) = [line for line in told if line.startswith("relaxed")]
    assert changed != NONE_MISSING.replace("unchanged", "relaxed")


@pytest.mark.parametrize("options", [{}, WEAK, {"strict": 1}], ids=["plain", "weak", "strict"])
def test_gpu_check_runs_from_end_to_end(run_steps, options):
    table = run_steps("the_gpu_check_passes", module="launch_steps", timeout_s=400, **options)
    assert "two processes | cuda:1 | pass" in table
    assert table.count("| pass |") == 15 and "| FAIL |" not in table


def test_no_seed_shows_a_wrong_outcome_of_what_is_shipped(run_steps, soak_factor):
    told = run_steps("run_seeds", module="ordering_steps", timeout_s=400, seeds=40 * soak_factor).splitlines()
    assert told and all(line.endswith(": 0 wrong") for line in told), told


def test_every_intrinsic_does_on_the_driver_what_it_does_on_the_cpu(run_steps):
    told = run_steps("run_all", module="intrinsic_steps", timeout_s=400).splitlines()
    wrong = [line for line in told if not line.endswith((" ok", " is another on a GPU"))]
    assert not wrong and len([line for line in told if line.endswith(" ok")]) > 160, wrong
