"""The CUDA driver through cuda.bindings: found, initialised, and every status turned into a typed error.

Nothing here runs at import: cuda.bindings is an extra, and a machine without a GPU has no driver to load.
"""

from __future__ import annotations

import functools
from typing import Any

from ...errors import AddressSpaceFull, DeviceError, DeviceMissing, SegmentTooLarge

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, of memory or of addresses
NOT_READY = 600  # CUDA_ERROR_NOT_READY: work is under way


class Driver:
    """An initialised CUDA driver. `constants` is the module cuda.bindings.driver: its enums and structs."""

    def __init__(self, module: Any):
        self.constants = module

    def call(self, name: str, *arguments: Any, detail: str = "") -> Any:
        """Call the driver's function `name` and return its result, a tuple where it has several.

        Raises DeviceError with the status; SegmentTooLarge and AddressSpaceFull where memory or addresses
        have run out. `detail` says what was asked for.
        """
        status, *results = getattr(self.constants, name)(*arguments)
        if int(status) == OUT_OF_MEMORY:
            kind = AddressSpaceFull if name == "cuMemAddressReserve" else SegmentTooLarge
            raise kind(f"{name}: the device is out of memory: {detail or 'no detail'}")
        if int(status) != 0:
            raise DeviceError(name, status.name, detail)
        if len(results) == 1:
            return results[0]
        return tuple(results) if results else None

    def stream_is_done(self, stream: int) -> bool:
        """Whether all work on `stream` has ended. Raises DeviceError where it failed."""
        (status,) = self.constants.cuStreamQuery(stream)
        if int(status) not in (0, NOT_READY):
            raise DeviceError("cuStreamQuery", status.name, "a kernel or copy failed")
        return int(status) == 0


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
