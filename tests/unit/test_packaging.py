"""What is built holds every file of ours once, and a checkout runs as it lies there."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

setuptools = pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[2]
LINKS = {"umem/kernels": "kernels", "umem/bench": "bench"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py asks setuptools for."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", asked.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return asked


def folder_of(package: str) -> Path:
    return ROOT / package.replace(".", "/")


def test_kernels_and_bench_are_linked_to_where_they_are_imported() -> None:
    assert {link: os.readlink(ROOT / link) for link in LINKS} == {
        link: f"../{folder}" for link, folder in LINKS.items()
    }


def test_every_file_of_the_package_is_built_and_once(built: dict[str, Any]) -> None:
    packages = built["packages"]
    assert len(packages) == len(set(packages)) and all(name.split(".")[0] == "umem" for name in packages)
    taken = []
    for package in packages:
        patterns = ["*.py", *built["package_data"].get(package, [])]
        taken += [
            path.resolve()
            for path in folder_of(package).iterdir()
            if any(fnmatch(path.name, pattern) for pattern in patterns)
        ]
    ours = {
        path.resolve()
        for folder in ("umem", "kernels", "bench")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(taken) == len(set(taken)), "a file is built twice"
    assert set(taken) == ours


def test_a_checkout_runs_without_being_installed(tmp_path: Path) -> None:
    code = "import umem.kernels, umem.bench, umem; print(umem.__file__, umem.kernels.__file__, umem.bench.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()
    assert found == [str(ROOT / "umem" / name / "__init__.py") for name in ("", "kernels", "bench")]
