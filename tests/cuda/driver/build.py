"""The driver as a library, built by cc and kept by the hash of its source; what a process needs to run on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llvmlite
from llvmlite import binding as llvm

HERE = Path(__file__).parent
KEPT_S = 7 * 24 * 3600
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror")
# Faults and the end of a launch jump between stacks, which fortified longjmp takes for an error.
FLAGS = (*WARNINGS, "-O2", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-shared", "-fPIC")


def driver_folder(compiler: str, include: Path, cache: Path) -> Path:
    """A folder in `cache` with libcuda.so.1, against the cuda.h in `include`."""
    sources = sorted((HERE / "c").iterdir())
    key = _hash(
        [*(path.read_bytes() for path in sources), " ".join((compiler, *FLAGS, str(include))).encode()]
    )
    folder = cache / f"driver-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    library = folder / "libcuda.so.1"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            made = Path(room) / "libcuda.so"
            files = [str(path) for path in sources if path.suffix == ".c"]
            command = [compiler, *FLAGS, f"-I{include}", "-o", str(made), *files, "-lpthread"]
            built = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
            assert built.returncode == 0, built.stderr
            os.replace(made, library)
    return folder


def forget_old(cache: Path) -> None:
    """Remove what no session has used for a while: of other sources, or of another machine."""
    for folder in cache.iterdir():
        if time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def environment(driver: Path, cache: Path, **options: object) -> dict[str, str]:
    """Variables by which a process finds the driver, and that what it needs; `options`: those of c/driver.h."""
    translator = [path.read_bytes() for path in sorted(HERE.glob("*.py")) if path.name != Path(__file__).name]
    machine = f"{llvmlite.__version__} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    code, ptx = cache / f"code-{_hash([*translator, machine.encode()])}", cache / "ptx"
    for folder in (code, ptx):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
    found = {
        "LD_LIBRARY_PATH": str(driver),
        "FAKE_CUDA_CACHE": str(code),
        "FAKE_CUDA_PTX": str(ptx),  # for ptx_text.py
        "FAKE_CUDA_PYTHON": sys.executable,
    }
    return found | {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in options.items()}


def _hash(parts: list[bytes]) -> str:
    """Of each part and its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:16]
