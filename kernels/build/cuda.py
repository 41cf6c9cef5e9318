"""Kernels for CUDA devices: PTX from the same Python source, and cubins; no device or driver is needed.

    ptx, entry = cuda_ptx(add_lines, "void(int64, int64, int64)", cc=(9, 0))
    cubin = cuda_cubin(ptx, cc=(9, 0))

`code_object` (code_object.py) makes both for every generation of devices, once, and keeps them: what a program
loads. A kernel asks `lane_index()` and `num_lanes()` for its share of the work. Floating point: NVVM fuses
a * b + c into one rounding, which the CPU does only where a kernel says vec_fma.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import NumbaError
from numba.core.sigutils import normalize_signature

from umem.errors import DeviceError, DeviceMissing, KernelRefused

from .compile import CpuKernel

CUDA_MAJOR = (
    13  # of the compilers: a driver runs what a newer CUDA compiled, if it is of the same major version
)
INSTALL = (
    f"install it with: pip install 'numba-cuda[cu{CUDA_MAJOR}]' 'cuda-toolkit[nvfatbin]=={CUDA_MAJOR}.*'"
)
Capability = tuple[int, int]


def cuda_ptx(
    body: Callable[..., Any] | CpuKernel, signature: Any, cc: Capability = (9, 0)
) -> tuple[str, str]:
    """PTX of the kernel `body` for compute capability `cc`, and the name of its entry.

    `signature`: "void(int64, ...)" in Numba's type names. A first call takes about a second. DeviceMissing
    where numba-cuda is not installed; KernelRefused for what CUDA cannot compile.
    """
    texts, entry = cuda_ptx_each(body, signature, [cc])
    return texts[cc], entry


def cuda_ptx_each(
    body: Callable[..., Any] | CpuKernel, signature: Any, capabilities: Sequence[Capability]
) -> tuple[Mapping[Capability, str], str]:
    """PTX of one kernel for each of the `capabilities`, and the name of its entry, the same in all.

    What takes the time, Numba's part, is done once, for the least of them: what it makes depends on no other.
    Errors: those of `cuda_ptx`.
    """
    if importlib.util.find_spec("numba_cuda") is None:  # Numba's own numba.cuda knows no system scope
        raise DeviceMissing(f"kernels for CUDA need numba-cuda; {INSTALL}")
    try:
        from cuda.bindings import nvvm

        nvvm.version()
    except (ImportError, RuntimeError) as error:  # the bindings, or the library that they load
        raise DeviceMissing(f"kernels for CUDA need NVVM; {INSTALL} ({error})") from error
    from numba.cuda import compiler, dispatcher

    from . import register_cuda

    function = kernel_body(body)
    _check_signature(body, signature)
    least = min(capabilities)
    with global_compiler_lock, _pretend_device(dispatcher, least):
        register_cuda.register_device_functions()
        try:
            # The half of compile_ptx before NVVM: compile_ptx itself would do all of it again for each capability.
            library, _ = compiler._compile_pyfunc_with_fixup(
                function, signature, device=False, abi="numba", cc=least
            )
            texts = {cc: library.get_asm_str(cc=cc) for cc in capabilities}
        except (NumbaError, nvvm.nvvmError) as error:
            raise KernelRefused(kernel_name(body), str(error)) from error
    entry = entry_name(body)
    return {cc: _renamed(text, entry) for cc, text in texts.items()}, entry


def kernel_body(body: Callable[..., Any] | CpuKernel) -> Any:
    """The undecorated function."""
    return body.body if isinstance(body, CpuKernel) else body


def kernel_name(body: Callable[..., Any] | CpuKernel) -> str:
    """What errors call it: its module and name."""
    return f"{body.__module__}.{body.__qualname__}"


def entry_name(body: Callable[..., Any] | CpuKernel) -> str:
    """Name of the kernel in PTX and cubins. Numba's own has a number in it that differs between compilations."""
    return "umem_" + re.sub(r"\W+", "_", body.__qualname__)


def cuda_cubin(ptx: str, cc: Capability) -> bytes:
    """Machine code of `ptx` for compute capability `cc`, by nvJitLink.

    DeviceMissing where nvJitLink is not installed; DeviceError where it refuses the PTX, with its log.
    """
    try:
        from cuda.bindings import nvjitlink

        handle = nvjitlink.create(1, [f"-arch=sm_{cc[0]}{cc[1]}"])
    except (ImportError, RuntimeError) as error:  # the bindings, or the library that they load
        raise DeviceMissing(f"cubins need nvJitLink; {INSTALL} ({error})") from error
    data = ptx.encode()
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "umem")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        text = log.decode(errors="replace").strip("\0 \n")
        raise DeviceError("nvJitLink", str(error), f"PTX for sm_{cc[0]}{cc[1]}: {text}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin)


def cuda_fatbin(cubins: Mapping[Capability, bytes], ptx: str, ptx_cc: Capability) -> bytes:
    """One image of all `cubins`, and of `ptx` that was made for `ptx_cc`: a driver takes what fits its device.

    By nvFatbin. DeviceMissing where it is not installed; DeviceError where it refuses an image.
    """
    options = ["-64", "-compress=false"]  # every driver reads it, and so does whoever has no decompressor
    try:
        from cuda.bindings import nvfatbin

        handle = nvfatbin.create(options, len(options))
    except (ImportError, RuntimeError) as error:  # the bindings, or the library that they load
        raise DeviceMissing(f"fatbins need nvFatbin; {INSTALL} ({error})") from error
    text = ptx.encode() + b"\0"
    try:
        for (major, minor), cubin in cubins.items():
            nvfatbin.add_cubin(handle, cubin, len(cubin), f"{major}{minor}", "umem")
        nvfatbin.add_ptx(handle, text, len(text), f"{ptx_cc[0]}{ptx_cc[1]}", "umem", "")
        fatbin = bytearray(nvfatbin.size(handle))
        nvfatbin.get(handle, fatbin)
    except nvfatbin.nvFatbinError as error:
        raise DeviceError("nvFatbin", str(error)) from error
    finally:
        nvfatbin.destroy(handle)
    return bytes(fatbin)


def _check_signature(body: Callable[..., Any] | CpuKernel, signature: Any) -> None:
    """What numba-cuda refuses with a bare TypeError."""
    arguments, result = normalize_signature(signature)
    num_taken = kernel_body(body).__code__.co_argcount
    if len(arguments) != num_taken:
        raise KernelRefused(
            kernel_name(body), f"it takes {num_taken} arguments, {signature} has {len(arguments)}"
        )
    if result not in (None, types.void):
        raise KernelRefused(
            kernel_name(body), f"CUDA kernels return nothing, this one {result}: store results"
        )


def _renamed(text: str, entry: str) -> str:
    found = re.search(r"\.visible \.entry (\w+)", text)
    assert found is not None, text
    return text.replace(found[1], entry)


@contextmanager
def _pretend_device(dispatcher: Any, cc: Capability) -> Iterator[None]:
    """numba-cuda asks the current device for its capability when it compiles a helper function, even if
    the kernel names one: answer for a device that need not exist."""
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = before
