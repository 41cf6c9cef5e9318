"""The CUDA driver through cuda.bindings: found, initialised, and every status turned into a typed error.

Nothing here runs at import: cuda.bindings is an extra, and a machine without a GPU has no driver to load.
"""

from __future__ import annotations

import functools
from typing import Any

from ...errors import AddressSpaceFull, DeviceError, DeviceMissing, SegmentTooLarge

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, of memory or of addresses
FUNCTIONS_VERSION = 12000  # of CUDA: functions whose form has changed are taken as they were then
# Errors of kernels after which "the process must be terminated and relaunched" (CUDA driver API, CUresult).
STICKY = frozenset({214, 700, 702, 710, 714, 715, 716, 717, 718, 719, 720})
NOT_READY = 600  # CUDA_ERROR_NOT_READY: work is under way


class Driver:
    """An initialised CUDA driver. `constants` is the module cuda.bindings.driver: its enums and structs."""

    def __init__(self, module: Any):
        self.constants = module
        self.is_lost = False  # a kernel's error stays: every call fails until this process ends

    def call(self, name: str, *arguments: Any, detail: str = "") -> Any:
        """Call the driver's function `name` and return its result, a tuple where it has several.

        Raises DeviceError with the status; SegmentTooLarge and AddressSpaceFull where memory or addresses
        have run out. `detail` says what was asked for.
        """
        status, *results = getattr(self.constants, name)(*arguments)
        if int(status) == OUT_OF_MEMORY:
            kind = AddressSpaceFull if name == "cuMemAddressReserve" else SegmentTooLarge
            raise kind(f"{name}: the device is out of memory: {detail or 'no detail'}")
        self._check(name, status, detail)
        if len(results) == 1:
            return results[0]
        return tuple(results) if results else None

    def function(self, name: str) -> int:
        """Address of the driver's C function `name`, in the form of CUDA 12: for compiled code."""
        pointer, _ = self.call("cuGetProcAddress", name.encode(), FUNCTIONS_VERSION, 0, detail=name)
        return int(pointer)

    def stream_is_done(self, stream: int) -> bool:
        """Whether all work on `stream` has ended. Raises DeviceError where it failed."""
        (status,) = self.constants.cuStreamQuery(stream)
        if int(status) != NOT_READY:
            self._check("cuStreamQuery", status, "a kernel or copy failed")
        return int(status) == 0

    def _check(self, name: str, status: Any, detail: str) -> None:
        if int(status) in STICKY:
            self.is_lost = True
        if int(status) != 0:
            raise DeviceError(name, status.name, detail)


@functools.cache
def load() -> Driver:
    """The driver of this process, initialised once.

    Raises DeviceMissing, with what to install or to check, where cuda.bindings, the driver or a GPU is
    missing. Must run after the process has forked: a CUDA context does not survive a fork.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceMissing(f"cuda.bindings is not installed ({error}); run scripts/setup cuda13") from error
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # cuda.bindings found no libcuda.so.1
        raise DeviceMissing(
            f"no CUDA driver on this machine ({error}) Install NVIDIA's driver; in a container, start it"
            " with the GPUs passed through (docker run --gpus all)"
        ) from error
    if int(status) != 0:
        raise DeviceMissing(
            f"the CUDA driver does not start: cuInit returned {status.name};"
            " nvidia-smi shows whether it sees a GPU"
        )
    return Driver(driver)
