"""Instructions of PTX on the driver that executes, against the same in Python."""

from __future__ import annotations

import pytest
from instruction_table import ROWS

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
pytestmark = pytest.mark.timeout(500)  # where nothing is cached, PTX and machine code are made first


@pytest.fixture(scope="module")
def told(run_steps) -> list[str]:
    return run_steps("run_all", module="instruction_steps", timeout_s=400).splitlines()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text)
def test_instruction(told, row):
    assert f"{row.text} ok" in told, [line for line in told if line.startswith(row.text)]
