"""Code objects: a kernel for every generation of CUDA devices, compiled once on a machine and kept.

    code = code_object(add_lines, "void(int64, int64, int64)")
    module = Module(device, code)                 # umem.memory.device.cuda_run; the driver picks what fits
    module.launch(code.entry, [a, b, n])

| file of the kernel's folder | what it is |
|---|---|
| sm_80.cubin, sm_90.cubin, sm_100.cubin | machine code of a generation, from PTX that was made for it |
| sm_80.ptx | PTX for the oldest one: a driver compiles it for a device that is newer than all cubins |
| code.fatbin | all of these in one image, which is what a driver is given |

The folder stands in the same cache as kernels for the CPU, under a key of its own: what lowers for CUDA and the
compilers' versions, and nothing of this machine's CPU. Its name has the kernel's fingerprint (code_cache.py), so
an edit of anything that the kernel uses makes another. It counts from the moment that it is marked ready, so
what was cut off is made anew. Making one needs numba-cuda, NVVM, nvJitLink and nvFatbin, and no device or driver.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler_lock import global_compiler_lock

from umem.errors import DeviceError, DeviceTooOld, KernelRefused
from umem.files import cached

from . import code_cache
from .compile import CpuKernel, compiling
from .cuda import (
    Capability,
    cuda_cubin,
    cuda_fatbin,
    cuda_ptx_each,
    entry_name,
    kernel_body,
    kernel_name,
)

CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0), (10, 0))
OLDEST = min(CAPABILITIES)
CUDA_SOURCES = (
    *code_cache.LOWERING_SOURCES,  # more than is needed: the two targets share most of the intrinsics
    *("build/code_object", "build/cuda", "build/register_cuda", "intrinsics/lower_cuda", "status"),
)
COMPILER_PACKAGES = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-nvfatbin")
FATBIN = "code.fatbin"


@dataclass(frozen=True)
class CodeObject:
    """A compiled kernel. `entry` is its name in every image, `fatbin` the image that has all of them."""

    name: str
    entry: str
    ptx: str
    cubins: Mapping[Capability, bytes]
    fatbin: bytes

    @property
    def ptx_version(self) -> str:
        """Version of the PTX, which a driver must know to compile it."""
        found = re.search(r"^\.version (\S+)", self.ptx, re.MULTILINE)
        assert found is not None, self.ptx
        return found[1]

    def for_device(self, compute_capability: Capability) -> bytes:
        """The image for a device: the newest cubin of its major version, else PTX, closed by a zero byte.

        Raises DeviceTooOld where the device is older than all of them. A driver that is given the fatbin chooses
        like this itself; an image by itself is for tools, and for programs that load it by other means.
        """
        major, minor = compute_capability
        if compute_capability < OLDEST:
            raise DeviceTooOld(self.name, compute_capability, OLDEST)
        fitting = [cc for cc in self.cubins if cc[0] == major and cc[1] <= minor]
        return self.cubins[max(fitting)] if fitting else self.ptx.encode() + b"\0"


def code_object(body: Callable[..., Any] | CpuKernel, signature: Any) -> CodeObject:
    """The kernel `body` for every generation of devices, from the cache where some process has made it before.

    `signature`: "void(int64, ...)" in Numba's type names. Others that want the same one wait for it. A first call
    takes seconds, later ones milliseconds; a kernel that cannot be cached (code_cache.py) is compiled each time.
    Raises KernelRefused, with the compiler's words, for what CUDA cannot compile, and DeviceMissing where a
    compiler is not installed.
    """
    function = kernel_body(body)
    given_up: list[Path] = []
    with global_compiler_lock:  # first, as a kernel for the CPU does: two locks, one order
        while (folder := code_cache.folder(function, signature, cuda_key())) not in (None, *given_up):
            assert folder is not None
            try:
                if (kept := _read(body, folder)) is not None:
                    return kept
                with compiling(), code_cache.turn(folder):
                    if (kept := _read(body, folder)) is None:  # no other process has made it meanwhile
                        kept = _compile(body, signature)
                        _write(kept, folder)
                    return kept
            except OSError as error:
                cached.give_up(folder, error)
                given_up.append(folder)
        with compiling():
            return _compile(body, signature)


@functools.cache
def cuda_key() -> str:
    """Hash of all that decides how a kernel is lowered for CUDA: sources of this package, and the compilers."""
    digest = hashlib.sha256()
    for name in CUDA_SOURCES:
        digest.update((code_cache.KERNELS_FOLDER / f"{name}.py").read_bytes())
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__)
    digest.update(repr((versions, [*map(_version, COMPILER_PACKAGES)], CAPABILITIES)).encode())
    return f"cuda-{digest.hexdigest()[:24]}"


def _version(package: str) -> str:
    # Slow to import, which only who uses a GPU should pay for.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # a toolkit that no package of Python's brought
        return ""


def _compile(body: Callable[..., Any] | CpuKernel, signature: Any) -> CodeObject:
    texts, entry = cuda_ptx_each(body, signature, CAPABILITIES)
    try:
        cubins = {cc: cuda_cubin(text, cc) for cc, text in texts.items()}
    except DeviceError as error:
        raise KernelRefused(kernel_name(body), str(error)) from error
    fatbin = cuda_fatbin(cubins, texts[OLDEST], OLDEST)
    return CodeObject(kernel_name(body), entry, texts[OLDEST], cubins, fatbin)


def _cubin_file(folder: Path, cc: Capability) -> Path:
    return folder / f"sm_{cc[0]}{cc[1]}.cubin"


def _ptx_file(folder: Path) -> Path:
    return _cubin_file(folder, OLDEST).with_suffix(".ptx")


def _write(code: CodeObject, folder: Path) -> None:
    ready = folder / code_cache.READY_FILE
    ready.unlink(missing_ok=True)  # it stands where files of the folder were removed
    _ptx_file(folder).write_text(code.ptx)
    for cc, cubin in code.cubins.items():
        _cubin_file(folder, cc).write_bytes(cubin)
    (folder / FATBIN).write_bytes(code.fatbin)
    ready.touch()


def _read(body: Callable[..., Any] | CpuKernel, folder: Path) -> CodeObject | None:
    """What is kept in the folder; None where that is not all there."""
    if not code_cache.is_ready(folder):
        return None
    try:
        cubins = {cc: _cubin_file(folder, cc).read_bytes() for cc in CAPABILITIES}
        ptx, fatbin = _ptx_file(folder).read_text(), (folder / FATBIN).read_bytes()
    except FileNotFoundError:
        return None
    return CodeObject(kernel_name(body), entry_name(body), ptx, cubins, fatbin)
