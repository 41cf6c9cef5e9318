"""Kernels on a GPU: a code object loaded, its entry launched, bytes copied in and out.

A code object (umem.kernels.build.code_object) holds machine code for each generation of GPUs, and the driver takes
what fits: it needs no compiler of its own, so one that is older than the compilers still runs the kernel. On a GPU
that is newer than all of them it compiles the PTX, and that it must know.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from ... import config
from ...errors import ConfigError, DeviceError, DriverTooOld, WaitTimeout
from ...kernels.build.code_object import CodeObject
from ...kernels.build.cuda import CUDA_MAJOR
from ...world.waiting import Deadline, until
from .cuda import CudaDevice

DEFAULT_STREAM = 0
Extents = int | Sequence[int]


# What a driver says of code that it does not know. A code object's is right by construction, so the driver is old.
_NOT_KNOWN = (
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_INVALID_IMAGE",
)


class Module:
    """A code object, or an image of your own, on one device, until `close`.

    An image is a fatbin, a cubin, or PTX closed by a zero byte. Not shared between threads while it is opened or
    closed. Raises DeviceTooOld where a code object has nothing for the device, DriverTooOld where its driver does
    not know what fits, DeviceError where it refuses an image.
    """

    def __init__(self, device: CudaDevice, code: CodeObject | bytes):
        self.device = device
        device.make_current()
        self._functions: dict[str, int] = {}
        self._module = _load(device, code) if isinstance(code, CodeObject) else _load_image(device, code)

    def launch(
        self,
        entry: str,
        arguments: Sequence[int | float],
        num_blocks: Extents = 1,
        threads_per_block: Extents = 1,
        *,
        types: Sequence[type] | None = None,
        stream: int = DEFAULT_STREAM,
        is_cooperative: bool = False,
    ) -> None:
        """Start `entry` on `num_blocks` x `threads_per_block` threads, each a number or up to three; returns before it
        has run, in the order of `stream`. Blocks of one that `is_cooperative` run all at once, so they may wait for
        each other; more blocks than the device holds are a DeviceError then.

        Arguments are int64 for int and float64 for float, as umem's kernels take them, unless `types` gives
        a ctypes type for each. Errors in the kernel are raised by `synchronize`. Raises DeviceError for an
        unknown entry or a size that the device refuses.
        """
        if types is None:
            types = [ctypes.c_double if isinstance(value, float) else ctypes.c_int64 for value in arguments]
        if len(types) != len(arguments):
            raise ConfigError(f"{entry}: {len(arguments)} arguments and {len(types)} types")
        no_extra, no_shared_bytes = 0, 0
        self.device.make_current()
        self.device.driver.call(
            "cuLaunchCooperativeKernel" if is_cooperative else "cuLaunchKernel",
            self.function(entry),
            *_three(num_blocks),
            *_three(threads_per_block),
            no_shared_bytes,
            stream,
            (tuple(arguments), tuple(types)),
            *([] if is_cooperative else [no_extra]),
            detail=f"{entry} on {num_blocks} x {threads_per_block} threads",
        )

    def function(self, entry: str) -> int:
        """The driver's handle of a kernel. Raises DeviceError where there is none of this name."""
        if entry not in self._functions:
            found = self.device.driver.call("cuModuleGetFunction", self._module, entry.encode(), detail=entry)
            self._functions[entry] = int(found)
        return self._functions[entry]

    def close(self) -> None:
        """Unload it. Its kernels must have ended (`synchronize`)."""
        self.device.driver.call("cuModuleUnload", self._module)


def _three(extents: Extents) -> tuple[int, int, int]:
    given = (extents,) if isinstance(extents, int) else tuple(extents)
    if not 1 <= len(given) <= 3:
        raise ConfigError(f"{len(given)} extents: a launch has one to three dimensions")
    first, second, third = (*given, 1, 1)[:3]
    return first, second, third


def _load(device: CudaDevice, code: CodeObject) -> Any:
    code.for_device(device.properties.compute_capability)  # DeviceTooOld says more than the driver would
    try:
        return _load_image(device, code.fatbin)
    except DeviceError as error:
        if error.status not in _NOT_KNOWN:
            raise
        major, minor = divmod(int(device.driver.call("cuDriverGetVersion")) // 10, 100)
        way_out = f"update the driver to one of CUDA {CUDA_MAJOR} or newer"
        if major >= CUDA_MAJOR:
            way_out = (
                "update the driver, or install the compilers of its CUDA:"
                f" pip install 'cuda-toolkit[cudart,nvrtc,nvvm,nvjitlink,nvfatbin]=={major}.{minor}.*'"
            )
        raise DriverTooOld(
            error.call,
            error.status,
            f"{device.NAME} does not know the code of kernel {code.name}, which a CUDA newer than the driver's"
            f" {major}.{minor} compiled (PTX {code.ptx_version}): {way_out}",
        ) from error


def _load_image(device: CudaDevice, image: bytes) -> Any:
    return device.driver.call(
        "cuModuleLoadData", image, detail=f"an image of {len(image)} bytes on {device.NAME}"
    )


def synchronize(device: CudaDevice, timeout_s: float | None = None, stream: int = DEFAULT_STREAM) -> None:
    """Wait until all that was started on `stream` has ended; the default one waits for all that block it.

    Raises DeviceError where a kernel failed, WaitTimeout after `timeout_s` (default: UMEM_TIMEOUT_S). The
    driver's own wait has no deadline, so its stream is asked in a loop that gives the core away.
    """
    device.make_current()
    timeout_s = config.timeout_s() if timeout_s is None else timeout_s

    def look() -> bool | None:
        if device.driver.stream_is_done(stream):
            return True
        os.sched_yield()
        return None

    if until(look, Deadline(timeout_s)) is None:
        raise WaitTimeout(f"{device.NAME}: kernels still run after {timeout_s:g} s")


def copy_in(device: CudaDevice, dst_pointer: int, src: bytes) -> None:
    """Write `src` to device memory. Ends before it returns."""
    device.make_current()
    device.driver.call("cuMemcpyHtoD", dst_pointer, src, len(src), detail=f"to {dst_pointer:#x}")


def copy_out(device: CudaDevice, src_pointer: int, num_bytes: int) -> bytes:
    """Read `num_bytes` of device memory. Ends before it returns."""
    device.make_current()
    dst = bytearray(num_bytes)
    device.driver.call("cuMemcpyDtoH", dst, src_pointer, num_bytes, detail=f"from {src_pointer:#x}")
    return bytes(dst)
