"""Orderings taken out of PTX show under the driver's weak memory: evidence that those which stand there are needed.

They are none that these suffice on a GPU: `umem verify kernel` searches all executions of the source.
"""

from __future__ import annotations

import pytest
from ordering_changes import CHANGES, SUBJECTS

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
pytestmark = pytest.mark.timeout(500)  # where nothing is cached, PTX and machine code are made first


@pytest.fixture(scope="module")
def told(run_steps) -> list[str]:
    """What every subject and every change prints, run once."""
    return run_steps("run_all", module="ordering_steps", timeout_s=400).splitlines()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_nothing_is_wrong_with_what_is_shipped(told, subject):
    assert f"control {subject}: 0 wrong" in told, told


@pytest.mark.parametrize("change", CHANGES)
def test_an_ordering_that_is_missing_shows(told, change):
    assert any(line.startswith(f"change {change}: seen,") for line in told), told
