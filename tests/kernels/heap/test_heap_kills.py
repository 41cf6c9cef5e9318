"""A process killed at shared accesses of compiled heap code: others go on, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def kill(num_kills: int, timeout_s: float) -> str:
    """Run heap_kills.py under the faults build; its output."""
    command = [sys.executable, "-m", "tests.kernels.heap.heap_kills", str(num_kills)]
    environment = {**os.environ, "UMEM_BUILD": "faults"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_heap_survives_kills():
    assert "alone 10" in kill(10, timeout_s=110)


@pytest.mark.soak
def test_a_heap_survives_a_kill_at_every_access():
    num_killed, num_accesses = map(int, re.findall(r"\d+", kill(1_000_000, timeout_s=590)))
    assert num_killed == num_accesses
