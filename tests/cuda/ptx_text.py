"""PTX of the kernels under test, compiled once and kept by the hash of their source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import umem

CC = (9, 0)
FOLDERS = (Path(umem.__file__).parent / "kernels", Path(umem.__file__).parent / "bench" / "parts")


def ptx_of(body: Callable[..., Any], num_arguments: int, cc: tuple[int, int] = CC) -> tuple[str, str]:
    """PTX of the kernel `body` over int64 arguments, and the name of its entry."""
    signature = f"void({', '.join(['int64'] * num_arguments)})"
    own = Path(body.__code__.co_filename).read_bytes()
    name = f"{body.__module__}.{body.__qualname__} {signature} {cc}"
    key = hashlib.sha256(name.encode() + own + _sources()).hexdigest()[:24]
    kept = Path(os.environ["FAKE_CUDA_PTX"]) / f"{key}.ptx"
    if not kept.exists():
        from umem.kernels.build.cuda import cuda_ptx  # loads Numba

        text, entry = cuda_ptx(body, signature, cc)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(f"// {entry}\n{text}")
        unfinished.replace(kept)
    first, _, text = kept.read_text().partition("\n")
    return text, first.removeprefix("// ")


def image(ptx: str) -> bytes:
    """What the driver is given: PTX, which it compiles itself."""
    return ptx.encode() + b"\0"


@cache
def _sources() -> bytes:
    """Hash of what kernels are made of: their source, and the compiler."""
    total = hashlib.sha256(version("numba-cuda").encode() + version("nvidia-nvvm").encode())
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.py")):
            total.update(path.read_bytes())
    return total.digest()
