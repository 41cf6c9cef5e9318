"""A member of a team is killed at its shared accesses inside collectives: the others end, and never with wrong sums."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def kill(distance: int, timeout_s: float) -> tuple[int, int]:
    """Run collective_kills.py under the faults build; (kills, accesses)."""
    command = [sys.executable, "-m", "tests.kernels.collective.collective_kills", str(distance)]
    environment = {**os.environ, "UMEM_BUILD": "faults"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    killed, accesses = map(int, re.findall(r"\d+", done.stdout))
    return killed, accesses


@pytest.mark.timeout(400)  # where nothing is cached, kernels are compiled first
def test_a_team_survives_kills():
    killed, _ = kill(997, timeout_s=350)
    assert killed >= 5


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_team_survives_kills_at_many_accesses(soak_factor):
    """One access in sixty; in `make check-long` one in three."""
    distance = max(1, 60 // soak_factor)
    killed, accesses = kill(distance, timeout_s=590)
    assert killed * distance >= accesses - distance
