"""A full /dev/shm is named, with the way out, where UCX needs it; mapped memory does not."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from .conftest import SCRIPT_TIMEOUT_S

JOIN = "import umem\nwith umem.init() as space:\n    print('joined', space.num_ranks)\n"


@pytest.fixture
def run_without_shared_memory(script):
    """`umem run` of a source where /dev/shm holds one page."""

    def run(source: str, *options: object) -> subprocess.CompletedProcess[str]:
        command = shlex.join([sys.executable, "-m", "umem", "run", *map(str, options), str(script(source))])
        inside = f"mount -t tmpfs -o size=4k tmpfs /dev/shm && exec {command}"
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", inside],
            check=False,
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
        )

    probe = subprocess.run(["unshare", "-m", "true"], check=False)
    if probe.returncode != 0:
        pytest.skip("this machine lets us make no mount namespace, so /dev/shm cannot be made small")
    return run


def test_a_full_dev_shm_is_named(run_without_shared_memory):
    ended = run_without_shared_memory(JOIN, "-n", 2, "--world", "no-peer-access", "--segment", "64M")
    assert ended.returncode != 0
    assert "/dev/shm has" in ended.stderr and "--shm-size" in ended.stderr


def test_mapped_memory_needs_no_dev_shm(run_without_shared_memory):
    ended = run_without_shared_memory(JOIN, "-n", 2, "--segment", "64M")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("joined 2") == 2
