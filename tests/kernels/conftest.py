"""What the tests of intrinsics and of the compiler share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.kernel_memory import InterpretedMemory

SCRIPT_TIMEOUT_S = 60


@pytest.fixture
def interpreted() -> InterpretedMemory:
    return InterpretedMemory()


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a fresh Python with a kernel cache of its own; its output as text."""

    def run(script: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(script)
        environment = {**os.environ, "UMEM_CACHE": str(tmp_path / "cache"), **variables}
        done = subprocess.run(
            [sys.executable, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
