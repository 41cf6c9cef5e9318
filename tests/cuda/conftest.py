"""Builds the driver that executes (driver/), and runs steps on it in a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the package `driver`


@pytest.fixture(scope="session")
def driver_cache(pytestconfig: pytest.Config) -> Path:
    """Folder that outlives the session: the driver, and machine code of PTX, by their hashes."""
    return Path(pytestconfig.cache.mkdir("cuda_driver"))


@pytest.fixture(scope="session")
def fake_driver(driver_cache: Path) -> Path:
    """Folder with the libcuda.so.1 of driver/, against the CUDA headers that are installed."""
    pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the fake driver with")
    if os.uname().machine != "x86_64":
        pytest.skip("the fake driver switches between threads as x86-64 does")
    nvidia = pytest.importorskip(
        "nvidia.cu13", reason="the CUDA headers are not installed: scripts/setup dev"
    )
    (include,) = (Path(folder) / "include" for folder in nvidia.__path__)
    if not (include / "cuda.h").exists():
        pytest.skip(f"no cuda.h in {include}")
    from driver.build import driver_folder, forget_old

    forget_old(driver_cache)
    return driver_folder(compiler, include, driver_cache)


@pytest.fixture(scope="session")
def gpu_worlds(request: pytest.FixtureRequest) -> Any:
    """Launches of GPU ranks: worlds.GpuWorlds, on the driver that executes or on the machine's own."""
    from worlds import IS_REAL, GpuWorlds

    if IS_REAL:
        return GpuWorlds()
    return GpuWorlds(request.getfixturevalue("fake_driver"), request.getfixturevalue("driver_cache"))


@pytest.fixture(scope="session")
def run_steps(fake_driver: Path, driver_cache: Path) -> Callable[..., str]:
    """Run a function of a module of steps in a fresh interpreter on the fake driver; returns what it printed.

    A fresh one because a driver is initialised once in a process, and must not be seen by other tests.
    """
    from driver.build import environment

    def run(name: str, module: str = "steps", timeout_s: float = 100, **options: object) -> str:
        root = HERE.parents[1]
        variables = os.environ | {"PYTHONPATH": f"{HERE}:{root / 'scripts'}:{root}"}
        variables |= environment(fake_driver, driver_cache, **options)
        command = [sys.executable, "-c", f"import {module}; {module}.{name}()"]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout_s, env=variables
        )
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        print(done.stderr)  # pytest shows it where a test fails
        return done.stdout

    return run
