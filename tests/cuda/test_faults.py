"""What the driver that executes does with faults, waits without end, memory out of reach, bad handles; its streams."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
pytestmark = pytest.mark.timeout(500)  # where nothing is cached, PTX and machine code are made first


STEPS = (
    "misaligned",
    "wild",
    "wild_under_weak_memory",
    "what_may_only_be_read",
    "trap",
    "blocks_that_are_not_resident",
    "only_what_was_given",
    "out_of_memory",
    "handles_that_are_none",
    "streams_run_in_order",
)


@pytest.fixture(scope="module")
def told(run_steps) -> str:
    """What all steps print, run once."""
    return run_steps("run_all", module="fault_steps", timeout_s=400)


@pytest.mark.parametrize("step", STEPS)
def test_fault(told, step):
    assert f"{step} ok" in told.splitlines(), told
