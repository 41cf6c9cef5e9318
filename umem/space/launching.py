"""Kernels of users, run on whatever device a rank works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ..errors import DeviceMissing
from ..fabric.switch import Switch
from ..kernels.build.kernel import kernel_of
from ..memory.segment import Segments
from .array import Array

if TYPE_CHECKING:
    import numpy as np

    from ..memory.device.cuda import CudaDevice
    from .gpu import Gpu


class Launches:
    """The part of a space that runs kernels."""

    rank: int
    timeout_s: float
    switch: Switch
    segments: Segments

    if TYPE_CHECKING:

        def view(self, address: int, num_bytes: int) -> np.ndarray:
            """The bytes at an address."""

        def before_close(self, check: Callable[[bool], None]) -> None:
            """Call `check` when the space is about to close."""

    @cached_property
    def gpu(self) -> Gpu:
        """This rank's GPU: its stream-ordered copies, and waits for what was launched. Raises DeviceMissing where this
        rank works on the CPU."""
        self.switch.check_open()
        if self.segments.gpu is None:
            raise DeviceMissing(
                f"rank {self.rank} works on the CPU; start the world with GPU ranks: umem run --device cuda,"
                ' umem.launch(device="cuda"), UMEM_DEVICE=cuda'
            )
        from .gpu import Gpu  # loads what compiles for CUDA

        gpu = Gpu(cast("CudaDevice", self.segments.gpu), self.segments, self.timeout_s)
        self.before_close(lambda is_forced: gpu.close(is_forced=is_forced))
        return gpu

    def launch(
        self,
        kernel: Any,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        stream: Any = None,
        cooperative: bool = False,
    ) -> None:
        """Run `kernel` (umem.kernel, or a plain function of that kind) on this rank's device.

        On a GPU: on `grid` blocks of `block` threads, in the order of `stream` (a number, or one of torch, CuPy or
        Numba); returns before it has run, and `synchronize` waits and raises what went wrong. The blocks of a
        `cooperative` launch run all at once. On the CPU: as one lane, before it returns.

        Arguments: ints are int64, floats float64, NumPy's numbers what they are, arrays the pointer of their first
        element. Raises ArgumentTypeError for others, KernelRefused for what does not compile, NotMappable for memory
        that this rank's device does not dereference.
        """
        self.switch.check_open()
        chosen = kernel_of(kernel)
        if self.segments.gpu is None:
            chosen.on_cpu(*map(self._cpu_argument, arguments))
        else:
            self.gpu.launch(chosen, grid, block, arguments, stream, cooperative)

    def synchronize(self, stream: Any = None, timeout_s: float | None = None) -> None:
        """Wait for what this rank's device was given on `stream`: nothing on the CPU, where it is done by then.

        Raises DeviceError where a kernel failed, WaitTimeout.
        """
        self.switch.check_open()
        if self.segments.gpu is not None:
            self.gpu.synchronize(stream, timeout_s)

    def _cpu_argument(self, value: Any) -> Any:
        if not isinstance(value, Array):
            return value
        self.view(value.address, value.nbytes)  # raises where the CPU does not reach it
        return value.address
