"""Kernels of users, run on whatever device a rank works on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ..arguments import whole
from ..errors import DeviceMissing, NotMappable
from ..fabric.switch import Switch
from ..kernels.build.kernel import kernel_of
from ..kernels.data.group import FLAG_WORDS
from ..memory.segment import Segments
from ..world import World
from ..world.agreement import agree
from .array import Array

if TYPE_CHECKING:
    import numpy as np

    from ..lines.cache import LineCache
    from ..memory.device.cuda import CudaDevice
    from .gpu import Gpu


class Launches:
    """The part of a space that runs kernels."""

    rank: int
    num_ranks: int
    world: World
    timeout_s: float
    switch: Switch
    segments: Segments
    _has_cached: ctypes.c_int64

    if TYPE_CHECKING:

        @property
        def cache(self) -> LineCache:
            """This rank's coherent copies of cached memory."""

        def view(self, address: int, num_bytes: int) -> np.ndarray:
            """The bytes at an address."""

        def shared(self, name: str, shape: int, dtype: Any, home: int | str = 0) -> Array:
            """One zeroed array for all ranks."""

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

    def reaches_by_cpu(self, address: int, num_bytes: int) -> bool:
        """Whether this rank's CPU loads and stores all of [address, address + num_bytes)."""
        plan, reach = self.segments.map, self.segments.reach
        places = (plan.place(start) for start, _ in plan.pieces(address, num_bytes))
        return all(reach.by_cpu(place.rank, place.kind) for place in places)

    def gpu_pointer(self, address: int, num_bytes: int) -> tuple[int, int]:
        """(ordinal of this rank's GPU, the pointer by which it loads and stores [address, address + num_bytes)).

        Raises DeviceMissing where this rank works on the CPU; NotMappable for memory that its GPU does not reach, does
        not reach by one pointer, or that is cached.
        """
        device, plan, reach = self.gpu.device, self.segments.map, self.segments.reach
        address, num_bytes = whole(address, "address"), whole(num_bytes, "num_bytes", 0)
        pointer = self.segments.pointer(address)
        for start, _ in plan.pieces(address, num_bytes):
            home, kind, _ = plan.place(start)
            if not reach.by_gpu(home, kind):
                raise NotMappable(
                    f"address {start:#x} lives at rank {home}, whose {kind.name.lower()} memory {device.NAME} of rank"
                    f" {self.rank} does not reach; use read/write, get/put or the scalar accesses"
                )
            if self.segments.pointer(start) - start != pointer - address:
                raise NotMappable(
                    f"{num_bytes} bytes at {address:#x} lie on GPUs and on CPUs, which {device.NAME} does not reach by"
                    " one pointer; allocate them at one home, or use read/write, get/put"
                )
        if self._has_cached.value:
            self.cache.refuse_raw(address, num_bytes)
        return device.ordinal, pointer

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
            for value in arguments:
                if isinstance(value, Array):
                    self.gpu_pointer(value.address, value.nbytes)  # raises where the GPU does not reach it
            self.gpu.launch(chosen, grid, block, arguments, stream, cooperative)

    def barrier_flags(self, name: str, num_groups: int | None = None, home: int | str = 0) -> Array:
        """Flags of `group_barrier` (kernels/data/group.py) for `num_groups` groups, by default one a rank; zeros.

        Collective. They lie at `home`: in the HBM of that rank's GPU where it works on one, which is where GPUs of one
        machine poll best; "host" is host memory of rank 0, for CPU ranks among them. Raises NotMappable at all ranks
        where the device of one does not reach them.
        """
        num = self.num_ranks if num_groups is None else whole(num_groups, "num_groups", minimum=1)
        flags = self.shared(name, num * FLAG_WORDS, "int64", home)
        agree(self.world, f"barrier flags {name!r}", lambda: self._check_reach(flags))
        return flags

    def _check_reach(self, flags: Array) -> None:
        rank, kind, _ = self.segments.map.place(flags.address)
        reach = self.segments.reach
        if self.segments.gpu is not None and reach.by_gpu(rank, kind):
            return
        if self.segments.gpu is None and reach.by_cpu(rank, kind):
            return
        raise NotMappable(
            f"the memory of rank {rank} is out of reach of this rank's device;"
            ' barrier_flags(..., home="host") lie where CPUs and GPUs of one host reach them'
        )

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
