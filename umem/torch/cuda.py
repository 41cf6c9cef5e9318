"""GPU memory of umem under torch's CUDA side: memory set aside on a GPU, and homes of a space of GPU ranks.

What is set aside is created as segments of a GPU are (umem/memory/device/cuda.py), with a heap in private memory of
the process; cuda_homes.py has the homes. Tests run all of this on a fake driver and with a stand-in for torch's CUDA
side; scripts/gpu-check runs it on a GPU, which the authors have not done.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from ..errors import ConfigError, DeviceMissing, WorldError
from ..heap.sites import NO_ATTRIBUTE
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import BLOCK_BYTES, MAGAZINE_ROWS
from ..kernels.heap.lock import HOLDER_INCARNATION_SHIFT
from ..kernels.heap.setup import arena_bytes
from ..kernels.page.control import CONTROL_BYTES, CONTROL_NUM_RANKS
from ..memory.device.cuda import CudaDevice
from ..space.space import Space
from ..units import align_up, format_size
from . import cuda_callbacks as callbacks
from .closing import AtClose
from .cuda_homes import pieces_of_home
from .cuda_pieces import Pieces, gpus
from .memory import lasting_tables, lasting_words, words_at
from .pool import installed


class GpuPool(Pieces):
    """Memory of one GPU that torch allocates from. One a process; `install(space, gpu_bytes=...)` makes it."""

    def __init__(self, space: Space, at_close: AtClose, num_bytes: int):
        self.device = CudaDevice(torch.cuda.current_device())
        self.num_bytes = align_up(num_bytes, max(self.device.granularity, BLOCK_BYTES))
        # Behind the address range of the world's segments.
        self.address = align_up(space.segments.map.striped_end, self.device.granularity)
        descriptor = self.device.create(self.num_bytes, "torch")
        try:
            self.pointer = self.device.reserve(self.address, self.num_bytes)
            self.device.map(descriptor, self.address, self.num_bytes)
        finally:
            os.close(descriptor)
        control, magazine = lasting_words(CONTROL_BYTES // 8), lasting_words(MAGAZINE_ROWS)
        words_at(control, CONTROL_BYTES // 8)[CONTROL_NUM_RANKS] = 1
        arena = lasting_tables(arena_bytes(self.num_bytes, 1))
        kernel.init(arena, self.pointer, self.num_bytes, 1)
        holder = 1 | os.getpid() << HOLDER_INCARNATION_SHIFT
        kernel.open_for_nobody(magazine, arena, holder, 0, NO_ATTRIBUTE)
        functions = callbacks.take, callbacks.give
        super().__init__(space, at_close, self.device, functions, control, magazine)
        gpus()[self.device.ordinal] = self.part

    def holds(self, pointer: int) -> bool:
        """Whether a CUDA pointer is this memory's."""
        return self.pointer <= pointer < self.pointer + self.num_bytes

    def end(self, num_left: int) -> None:
        """Give the memory back, unless torch has `num_left` pieces of it."""
        global _gpu_pool
        _gpu_pool = None
        gpus()[self.device.ordinal] = 0
        if not num_left:
            self.device.close()


def use_gpu_pool(home: int | str | None = None) -> AbstractContextManager[None]:
    """Context in which torch's CUDA allocations of the calling thread come from `home`.

    A home is a rank, whose GPU this rank's GPU must reach, "local" (this rank's own GPU), or "host" (this rank's host
    memory, which its GPU reaches too); such memory is the space's, and every rank may use its address. Without `home`
    it is the memory of `install(space, gpu_bytes=...)`, on the GPU that was current then, or else "local".

    torch takes whole pieces, of 2 MiB or more, and keeps what tensors free for later ones; a tensor may live and die
    outside of the context, and not longer than the rank. Where no room is left torch raises
    torch.cuda.OutOfMemoryError. Raises NotMappable for a home that this rank's GPU does not reach, DeviceMissing where
    this rank works on the CPU, WorldError where `install` was not called.
    """
    installed_pool = installed()  # raises in a forked child
    pieces: Pieces | None = _gpu_pool
    if home is not None or pieces is None:
        if home is None and installed_pool.space.segments.gpu is None:
            raise WorldError(
                "there is no GPU memory: call umem.torch.install(space, gpu_bytes=...) first, or start GPU ranks:"
                ' umem.launch(device="cuda")'
            )
        pieces = pieces_of_home(
            installed_pool.space, installed_pool.at_close, "local" if home is None else home
        )
    context: AbstractContextManager[None] = torch.cuda.use_mem_pool(
        pieces.mem_pool(), device=pieces.device.ordinal
    )
    return context


def open_gpu_pool(space: Space, at_close: AtClose, num_bytes: int) -> GpuPool:
    """The GPU memory of `space`, made unless it has one.

    Raises DeviceMissing where torch has no CUDA, ConfigError where another size was asked for before,
    SegmentTooLarge where the GPU has not that much left.
    """
    global _gpu_pool
    if not hasattr(torch._C, "_cuda_customAllocator") or not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
        raise DeviceMissing(
            f"gpu_bytes={num_bytes}: torch {torch.__version__} {why}; install a torch with CUDA on a machine with a"
            " GPU, or leave gpu_bytes out"
        )
    if num_bytes <= 0:
        raise ConfigError(f"gpu_bytes={num_bytes} must be above 0")
    if _gpu_pool is None:
        _gpu_pool = GpuPool(space, at_close, num_bytes)
    elif align_up(num_bytes, BLOCK_BYTES) != _gpu_pool.num_bytes:
        raise ConfigError(
            f"gpu_bytes is {format_size(_gpu_pool.num_bytes)} already, for as long as the space lives"
        )
    _gpu_pool.at_close = at_close
    return _gpu_pool


_gpu_pool: GpuPool | None = None
