"""Kernels on the driver in a world of ranks, two to a device, and long runs of the rest: minutes."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")

WEAK = {"weak": 1, "switch": 3}
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def test_no_coherent_addition_is_lost(run_steps):
    told = run_steps("run_all", module="world_steps", timeout_s=400).splitlines()
    assert "unchanged 12800 of 12800" in told


def test_under_weak_memory_only_a_kernel_without_its_orderings_loses_additions(run_steps):
    told = run_steps("run_all", module="world_steps", timeout_s=400, **WEAK).splitlines()
    assert "unchanged 12800 of 12800" in told
    (changed,) = [line for line in told if line.startswith("relaxed")]
    assert int(changed.split()[1]) < 12800


@pytest.mark.parametrize("options", [{}, WEAK, {"strict": 1}], ids=["plain", "weak", "strict"])
def test_gpu_check_runs_from_end_to_end(run_steps, options):
    table = run_steps("the_gpu_check_passes", module="launch_steps", timeout_s=400, **options)
    assert "two processes  pass" in table and "15 of 15 checks passed on 2" in table


def test_no_seed_shows_a_wrong_outcome_of_what_is_shipped(run_steps, soak_factor):
    told = run_steps("run_seeds", module="ordering_steps", timeout_s=400, seeds=40 * soak_factor).splitlines()
    assert told and all(line.endswith(": 0 wrong") for line in told), told
