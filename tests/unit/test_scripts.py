"""scripts/: refusals that cost a newcomer no time. (That they work is shown by this test running at all.)"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        (["ucx", "cuda13"], "exclude each other: libucx-cu12 and libucx-cu13 install into the same folder"),
        (["torhc"], "unknown extra 'torhc'; known: ucx cuda13 torch peers dev"),
    ],
)
def test_setup_refuses_extras_that_cannot_be(extras, said):
    done = run("scripts/setup", *extras)
    assert done.returncode == 2 and said in done.stderr


def test_every_extra_is_known_to_setup_and_pinned():
    setup = (ROOT / "setup.py").read_text()
    extras = re.findall(r'^    "(\w+)": \[', setup, re.MULTILINE)
    known = re.search(r"\"(ucx cuda13 [\w ]+)\"", (ROOT / "scripts/setup").read_text())
    assert known and sorted(extras) == sorted(known[1].split())
    pinned = (ROOT / "scripts/constraints.txt").read_text()
    for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?==([\w.]+)"', setup):
        assert f"{name}=={version}\n" in pinned or name == "torch"


def test_make_has_every_target_that_the_readme_names():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()))
    assert named <= targets and {"bench", "test", "verify", "bars", "check-long", "lint", "types"} <= targets


def test_gpu_check_says_why_it_cannot_run():
    done = run("bash", "-c", "PATH=/usr/sbin:/usr/bin:/sbin:/bin scripts/gpu-check")
    if done.returncode != 3:
        pytest.skip("this machine has a CUDA driver: run scripts/gpu-check itself")
    assert "no CUDA driver" in done.stderr and "make test" in done.stderr
