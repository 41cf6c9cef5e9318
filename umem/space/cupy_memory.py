"""Memory of the space under CuPy: an allocator for cupy.cuda.set_allocator, and for a MemoryPool over it.

    pool = cupy.cuda.MemoryPool(umem.cupy_allocator(space, home=1))    # arrays in rank 1's memory
    with cupy.cuda.using_allocator(pool.malloc):
        a = cupy.zeros(1000)

CuPy runs on no driver but a real one: tests use a stand-in for it, scripts/gpu-check the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CupyMissing, NotMappable, OutOfMemory
from .space import Space

CUPY_ALIGNMENT = 512  # CuPy's own


def cupy_allocator(space: Space, home: int | str = "local") -> Callable[[int], Any]:
    """A function that allocates `num_bytes` at `home` and returns a cupy.cuda.MemoryPointer.

    `home` is a rank whose memory this rank's GPU reaches, "local" or "host"; the memory is the space's, and
    `space.address(pointer)` is the same for every rank. What CuPy drops is freed once all work of the GPU is done, as
    by cudaFree: put a MemoryPool before it where arrays come and go. Arrays must not outlive the space.

    Raises CupyMissing, DeviceMissing where this rank works on the CPU; the function raises NotMappable for a home that
    the GPU does not reach, and CUDARuntimeError (errorMemoryAllocation) where no room is left.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise CupyMissing(
            "cupy_allocator needs CuPy, which is not installed: pip install cupy-cuda13x"
        ) from None
    ordinal = space.gpu.device.ordinal

    class Memory(cupy.cuda.BaseMemory):
        """One allocation of the space, as CuPy holds memory."""

        def __init__(self, address: int, pointer: int, num_bytes: int):
            self.address, self.ptr, self.size, self.device_id = address, pointer, num_bytes, ordinal

        def __del__(self) -> None:
            if space.is_open:
                space.gpu.finish()
                space.free(self.address)

    def allocate(num_bytes: int) -> Any:
        num_bytes = max(num_bytes, 1)
        try:
            address = space.alloc(num_bytes, home, align=CUPY_ALIGNMENT)
        except OutOfMemory as error:
            # What CUDA itself would say: a MemoryPool then frees what it keeps, and asks again.
            runtime = cupy.cuda.runtime
            raise runtime.CUDARuntimeError(runtime.errorMemoryAllocation) from error
        try:
            pointer = space.gpu_pointer(address, num_bytes)[1]
        except NotMappable:
            space.free(address)
            raise
        return cupy.cuda.MemoryPointer(Memory(address, pointer, num_bytes), 0)

    return allocate
