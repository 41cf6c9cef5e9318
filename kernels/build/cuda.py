"""Kernels for CUDA devices: PTX from the same Python source, and cubins; no device or driver is needed.

    ptx, entry = cuda_ptx(add_lines, "void(int64, int64, int64)", cc=(9, 0))
    cubin = cuda_cubin(ptx, cc=(9, 0))            # load and launch through cuda.bindings.driver

A kernel asks `lane_index()` and `num_lanes()` for its share of the work. Floating point: NVVM fuses a * b + c
into one rounding, which the CPU does only where a kernel says vec_fma.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from umem.errors import DeviceError, DeviceMissing

from .compile import CpuKernel

INSTALL = "install it with: pip install 'numba-cuda[cu13]'"


def cuda_ptx(
    body: Callable[..., Any] | CpuKernel, signature: Any, cc: tuple[int, int] = (9, 0)
) -> tuple[str, str]:
    """PTX of the kernel `body` for compute capability `cc`, and the name of its entry.

    `signature`: "void(int64, ...)" in Numba's type names. A first call takes about a second. DeviceMissing
    where numba-cuda is not installed; Numba's TypingError for what CUDA cannot compile.
    """
    if importlib.util.find_spec("numba_cuda") is None:  # Numba's own numba.cuda knows no system scope
        raise DeviceMissing(f"kernels for CUDA need numba-cuda; {INSTALL}")
    from numba import cuda
    from numba.core.compiler_lock import global_compiler_lock
    from numba.cuda import dispatcher

    from . import register_cuda

    function = body.body if isinstance(body, CpuKernel) else body
    with global_compiler_lock, _pretend_device(dispatcher, cc):
        register_cuda.register_device_functions()
        text, _ = cuda.compile_ptx(function, signature, cc=cc)
    entry = re.search(r"\.visible \.entry (\w+)", text)
    assert entry is not None, text
    return text, entry.group(1)


def cuda_cubin(ptx: str, cc: tuple[int, int]) -> bytes:
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


@contextmanager
def _pretend_device(dispatcher: Any, cc: tuple[int, int]) -> Iterator[None]:
    """numba-cuda asks the current device for its capability when it compiles a helper function, even if
    the kernel names one: answer for a device that need not exist."""
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = before
