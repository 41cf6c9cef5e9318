"""The same suite with another torch, in an environment of its own: minutes, and gigabytes while it runs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

ROOT = Path(__file__).parents[2]
OTHER_TORCH = "2.9.1"
INSTALL_S, SUITE_S = 1800, 1800

pytestmark = [pytest.mark.long, pytest.mark.timeout(INSTALL_S + SUITE_S)]


def run(*command: str | Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """An interpreter with the other torch, and with all else from this environment."""
    # Not tmp_path: pytest would keep the last three.
    with tempfile.TemporaryDirectory(prefix="umem-torch-") as folder:
        assert run(sys.executable, "-m", "venv", folder, timeout_s=INSTALL_S).returncode == 0
        python = Path(folder, "bin", "python")
        pip = python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"
        done = run(*pip, f"torch=={OTHER_TORCH}", timeout_s=INSTALL_S)
        if done.returncode != 0:
            pytest.skip(f"pip does not find torch {OTHER_TORCH}: {done.stderr[-500:]}")
        # Only now, so that pip does not take this environment's torch for the new one's; behind the new one's.
        packages = Path(sysconfig.get_path("purelib", vars={"base": folder}))
        outer = sysconfig.get_path("purelib")
        (packages / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")
        yield python


def test_it_is_the_other_torch(python):
    told = run(python, "-c", "import torch, umem.torch; print(torch.__version__)", timeout_s=100)
    assert told.stdout.startswith(OTHER_TORCH), told


def test_the_suite_passes(python):
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/torch", timeout_s=SUITE_S)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_torch_with_cuda_takes_our_functions(python):
    """As far as it goes without a GPU: the real binding accepts the two addresses and makes an allocator."""
    told = run(
        python,
        "-c",
        "import torch\nfrom umem.torch.cuda_callbacks import give, take\n"
        "make = getattr(torch._C, '_cuda_customAllocator', None)\n"
        "made = make and make(take.address, give.address)\n"
        "print(isinstance(made, torch._C._cuda_CUDAAllocator) if made else 'no CUDA')",
        timeout_s=100,
    )
    if "no CUDA" in told.stdout:
        pytest.skip("this torch is built without CUDA")
    assert told.stdout.strip() == "True", told
