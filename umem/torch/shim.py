"""The allocator in C++ for machines where c10.py cannot make it, compiled once a torch version.

The library lies in umem's cache folder, under a name made of the source, the torch version and the machine. Compiling
takes the system's compiler, the headers that come with torch, and about a second.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from ..errors import AllocatorRefused
from ..files import cached
from . import callbacks
from .c10 import C10
from .layout import PAGE_DEFAULT, PAGE_DEFAULT_DELETE, PAGE_THROW
from .memory import Words, keep_forever

_SOURCE = Path(__file__).with_name("shim.cpp")
COMPILERS = ("c++", "g++", "clang++")
_COMPILE_TIMEOUT_S = 120


def make_object(page: Words, c10: C10, refusal: AllocatorRefused) -> int:
    """Make an allocator in C++ over the one in force; returns its address. `refusal` is the error of c10.py.

    Raises AllocatorRefused, with both reasons, where it cannot be compiled.
    """
    try:
        library = ctypes.CDLL(str(compiled()))
    except (OSError, AllocatorRefused) as error:
        raise AllocatorRefused(f"{refusal}; and the way by a compiler failed: {error}") from error
    make = library.umem_make_allocator
    make.restype = ctypes.c_void_p
    make.argtypes = [ctypes.c_void_p] * 3
    page[PAGE_DEFAULT], page[PAGE_THROW] = c10.allocator(), c10.throw
    keep_forever(callbacks.allocate_bytes.load())
    keep_forever(library)
    delete = ctypes.c_void_p()
    made = make(callbacks.allocate_bytes.address, callbacks.delete.address, ctypes.addressof(delete))
    page[PAGE_DEFAULT_DELETE] = int(delete.value or 0)
    return int(made)


def compiled() -> Path:
    """Path of the shim for the torch that is loaded, compiled at the first call. Raises AllocatorRefused."""
    source = _SOURCE.read_text()
    abi = int(torch.compiled_with_cxx11_abi())
    key = f"{source}|{torch.__version__}|{abi}|{platform.machine()}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    folder = cached.folder("torch-shim", ready=name)
    if folder is None:
        raise AllocatorRefused(f"there is no folder for the compiled {_SOURCE.name}: {cached.WAY_OUT}")
    path = folder / name
    if not path.exists():
        _compile(path, abi)
    return path


def _compile(path: Path, abi: int) -> None:
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise AllocatorRefused(f"no C++ compiler is installed ({', '.join(COMPILERS)})")
    root = Path(torch.__file__).parent
    # Under a temporary name first, so that a process that starts meanwhile sees a whole file or none.
    descriptor, partly = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(descriptor)
    command = [compiler, "-std=c++20", "-O2", "-fPIC", "-shared", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    command += [f"-I{root / 'include'}", str(_SOURCE), "-o", partly, f"-L{root / 'lib'}", "-lc10"]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=_COMPILE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise AllocatorRefused(f"{compiler} could not compile {_SOURCE.name}: {done.stderr[-2000:]}")
        Path(partly).replace(path)
    except subprocess.TimeoutExpired:
        raise AllocatorRefused(
            f"{compiler} took more than {_COMPILE_TIMEOUT_S} s for {_SOURCE.name}"
        ) from None
    finally:
        Path(partly).unlink(missing_ok=True)
