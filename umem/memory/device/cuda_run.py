"""Kernels on a GPU: a cubin loaded, its entry launched, bytes copied in and out.

The kernels are Numba's, compiled to PTX and on to a cubin by umem.kernels.build.cuda; the driver needs no
compiler of its own, so a driver older than the toolkit still runs them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from ... import config
from ...errors import ConfigError, WaitTimeout
from ...world.waiting import Deadline, until
from .cuda import CudaDevice

DEFAULT_STREAM = 0


class Module:
    """A cubin on one device, until `close`. Not shared between threads while it is opened or closed."""

    def __init__(self, device: CudaDevice, cubin: bytes):
        self.device = device
        device.make_current()
        self._module = device.driver.call(
            "cuModuleLoadData", cubin, detail=f"a cubin of {len(cubin)} bytes on {device.NAME}"
        )

    def launch(
        self,
        entry: str,
        arguments: Sequence[int | float],
        num_blocks: int = 1,
        threads_per_block: int = 1,
        *,
        types: Sequence[type] | None = None,
    ) -> None:
        """Start `entry` on `num_blocks` x `threads_per_block` threads; returns before it has run.

        Arguments are int64 for int and float64 for float, as umem's kernels take them, unless `types` gives
        a ctypes type for each. Errors in the kernel are raised by `synchronize`. Raises DeviceError for an
        unknown entry or a size that the device refuses.
        """
        if types is None:
            types = [ctypes.c_double if isinstance(value, float) else ctypes.c_int64 for value in arguments]
        if len(types) != len(arguments):
            raise ConfigError(f"{entry}: {len(arguments)} arguments and {len(types)} types")
        driver = self.device.driver
        function = driver.call("cuModuleGetFunction", self._module, entry.encode(), detail=entry)
        no_extra, no_shared_bytes = 0, 0
        driver.call(
            "cuLaunchKernel",
            function,
            num_blocks,
            1,
            1,
            threads_per_block,
            1,
            1,
            no_shared_bytes,
            DEFAULT_STREAM,
            (tuple(arguments), tuple(types)),
            no_extra,
            detail=f"{entry} on {num_blocks} x {threads_per_block} threads",
        )

    def close(self) -> None:
        """Unload the cubin. Its kernels must have ended (`synchronize`)."""
        self.device.driver.call("cuModuleUnload", self._module)


def synchronize(device: CudaDevice, timeout_s: float | None = None) -> None:
    """Wait until all that was started on the device has ended.

    Raises DeviceError where a kernel failed, WaitTimeout after `timeout_s` (default: UMEM_TIMEOUT_S). The
    driver's own wait has no deadline, so its stream is asked in a loop that gives the core away.
    """
    device.make_current()
    timeout_s = config.timeout_s() if timeout_s is None else timeout_s

    def look() -> bool | None:
        if device.driver.stream_is_done(DEFAULT_STREAM):
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
