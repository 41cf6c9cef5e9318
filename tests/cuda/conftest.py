"""Builds the fake driver, and runs steps on it in a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a libcuda.so.1 built from fake_libcuda.c, against the CUDA headers that are installed."""
    pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the fake driver with")
    nvidia = pytest.importorskip(
        "nvidia.cu13", reason="the CUDA headers are not installed: scripts/setup dev"
    )
    (include,) = (Path(folder) / "include" for folder in nvidia.__path__)
    if not (include / "cuda.h").exists():
        pytest.skip(f"no cuda.h in {include}")
    folder = tmp_path_factory.mktemp("fake_driver")
    flags = [
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-I{include}",
    ]
    command = [compiler, *flags, "-o", str(folder / "libcuda.so.1"), str(HERE / "fake_libcuda.c")]
    built = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def run_steps(fake_driver: Path) -> Callable[..., str]:
    """Run a function of a module of steps in a fresh interpreter on the fake driver; returns what it printed.

    A fresh one because a driver is initialised once in a process, and must not be seen by other tests.
    """

    def run(name: str, module: str = "steps", **options: int) -> str:
        environment = dict(
            os.environ, PYTHONPATH=f"{HERE}:{HERE.parents[1] / 'scripts'}", LD_LIBRARY_PATH=str(fake_driver)
        )
        environment |= {f"FAKE_CUDA_{option.upper()}": str(value) for option, value in options.items()}
        command = [sys.executable, "-c", f"import {module}; {module}.{name}()"]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=100, env=environment
        )
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        print(done.stderr)  # pytest shows it where a test fails
        return done.stdout

    return run
