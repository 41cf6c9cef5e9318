"""GPU memory of umem under torch's CUDA side: a MemPool over two compiled functions and a heap over VMM memory.

The memory is created as segments of a GPU are (umem/memory/device/cuda.py). Its heap's metadata is private memory
of the process, so that no CPU touches the GPU's. Tests run all of this on a fake driver and with a stand-in for
torch's CUDA side; scripts/gpu-check runs it on a GPU, which the authors have not done.
"""

from __future__ import annotations

import gc
import inspect
import os
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..errors import ConfigError, DeviceError, DeviceMissing, WorldError
from ..heap.sites import NO_ATTRIBUTE
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import BLOCK_BYTES, MAGAZINE_ROWS
from ..kernels.heap.lock import HOLDER_INCARNATION_SHIFT
from ..kernels.heap.setup import arena_bytes
from ..kernels.page.control import CONTROL_BYTES, CONTROL_NUM_RANKS
from ..memory.device.cuda import CudaDevice
from ..space.space import Space
from ..units import align_up, format_size
from ..world.waiting import Deadline, until
from . import cuda_callbacks as callbacks
from .closing import AtClose, let_stay
from .layout import PAGE_GPUS
from .memory import keep_forever, lasting_tables, lasting_words, page, words_at
from .pool import installed

DRIVER_FUNCTIONS = {
    callbacks.GPU_PUSH_CONTEXT: "cuCtxPushCurrent",
    callbacks.GPU_POP_CONTEXT: "cuCtxPopCurrent",
    callbacks.GPU_CREATE_EVENT: "cuEventCreate",
    callbacks.GPU_RECORD_EVENT: "cuEventRecord",
    callbacks.GPU_QUERY_EVENT: "cuEventQuery",
    callbacks.GPU_DESTROY_EVENT: "cuEventDestroy",
    callbacks.GPU_EXCHANGE_MODE: "cuThreadExchangeStreamCaptureMode",
}
DRIVER_VERSION = 12000  # of these functions' signatures


class GpuPool:
    """Memory of one GPU that torch allocates from. One a process; `install(space, gpu_bytes=...)` makes it."""

    def __init__(self, space: Space, at_close: AtClose, num_bytes: int):
        self.space, self.at_close = space, at_close
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
        self._part = self._make_part(space.timeout_s)
        self._words = words_at(self._part, callbacks.GPU_WORDS)
        for callback in (callbacks.take, callbacks.give):
            keep_forever(callback.load())
        _gpus()[self.device.ordinal] = self._part
        self._allocator = torch._C._cuda_customAllocator(callbacks.take.address, callbacks.give.address)
        keep_forever(self._allocator)  # torch's blocks point to it
        self._mem_pool: Any = None

    def mem_pool(self) -> Any:
        """torch's MemPool over this memory; where torch can (not 2.9), no two tensors share a piece."""
        if self._mem_pool is None:
            known = inspect.signature(torch.cuda.MemPool.__init__).parameters
            options = {"no_split": True} if "no_split" in known else {}
            self._mem_pool = torch.cuda.MemPool(self._allocator, **options)
        return self._mem_pool

    def num_live(self) -> int:
        """Pieces of memory that torch has: those of tensors, and those in its cache."""
        return self._words[callbacks.GPU_NUM_LIVE]

    def num_waiting(self) -> int:
        """Pieces that torch has freed and that a stream may still use."""
        return int(callbacks.poll(self._part))

    def num_kept(self) -> int:
        """Pieces that are lost until the process ends, because the driver gave no event for them."""
        return self._words[callbacks.GPU_NUM_KEPT]

    def holds(self, pointer: int) -> bool:
        """Whether a CUDA pointer is this memory's."""
        return self.pointer <= pointer < self.pointer + self.num_bytes

    def trim(self) -> None:
        """Have torch free the pieces in its cache. Not inside of `use_gpu_pool`."""
        self._mem_pool = None  # torch frees its cached pieces with their MemPool
        gc.collect()

    def before_close(self, is_forced: bool) -> None:
        """Let torch keep the pieces that it uses, or raise WorldError to keep the space open: as `at_close` says."""
        self.trim()

        def look() -> bool | None:
            if not self.num_waiting():
                return True
            os.sched_yield()
            return None

        until(look, Deadline(self.space.timeout_s))
        num_left = self.num_live() + self.num_waiting() + self.num_kept()
        if num_left:
            let_stay(f"{num_left} pieces of {self.device.NAME} are in use by torch", self.at_close, is_forced)
        global _gpu_pool
        _gpu_pool = None
        _gpus()[self.device.ordinal] = 0
        if not num_left:
            self.device.close()

    def _make_part(self, timeout_s: float) -> int:
        """Make the GPU's part, the words that the callbacks read, and a heap over its memory for this process alone."""
        control, magazine = lasting_words(CONTROL_BYTES // 8), lasting_words(MAGAZINE_ROWS)
        words_at(control, CONTROL_BYTES // 8)[CONTROL_NUM_RANKS] = 1
        arena = lasting_tables(arena_bytes(self.num_bytes, 1))
        kernel.init(arena, self.pointer, self.num_bytes, 1)
        holder = 1 | os.getpid() << HOLDER_INCARNATION_SHIFT
        kernel.open_for_nobody(magazine, arena, holder, 0, NO_ATTRIBUTE)
        part = lasting_words(callbacks.GPU_WORDS)
        words = words_at(part, callbacks.GPU_WORDS)
        words[callbacks.GPU_CONTROL], words[callbacks.GPU_MAGAZINE] = control, magazine
        words[callbacks.GPU_TIMEOUT_NS] = int(timeout_s * 1e9)
        words[callbacks.GPU_CONTEXT] = self.device.context
        for word, name in DRIVER_FUNCTIONS.items():
            words[word] = self._function(name)
        return part

    def _function(self, name: str) -> int:
        """Address of a function of the driver."""
        found = self.device.driver.call("cuGetProcAddress", name.encode(), DRIVER_VERSION, 0, detail=name)
        if not found[0]:
            raise DeviceError("cuGetProcAddress", "no such function", name)
        return int(found[0])


def use_gpu_pool() -> AbstractContextManager[None]:
    """Context in which torch's CUDA allocations of the calling thread come from the memory of `gpu_bytes`.

    On the GPU that was current at `install`. torch takes whole pieces, of 2 MiB or more, and keeps what tensors
    free for later ones; a tensor may live and die outside of the context. Where no room is left torch raises
    torch.cuda.OutOfMemoryError. Raises WorldError where `install(space, gpu_bytes=...)` was not called.
    """
    installed()  # raises in a forked child
    if _gpu_pool is None:
        raise WorldError("there is no GPU memory: call umem.torch.install(space, gpu_bytes=...) first")
    context: AbstractContextManager[None] = torch.cuda.use_mem_pool(
        _gpu_pool.mem_pool(), device=_gpu_pool.device.ordinal
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
        space.before_close(_gpu_pool.before_close)
    elif align_up(num_bytes, BLOCK_BYTES) != _gpu_pool.num_bytes:
        raise ConfigError(
            f"gpu_bytes is {format_size(_gpu_pool.num_bytes)} already, for as long as the space lives"
        )
    _gpu_pool.at_close = at_close
    return _gpu_pool


def _gpus() -> Any:
    """A word a GPU: the address of its part."""
    table = page()
    if table[PAGE_GPUS] == 0:
        table[PAGE_GPUS] = lasting_words(callbacks.MAX_GPUS)
    return words_at(table[PAGE_GPUS], callbacks.MAX_GPUS)


_gpu_pool: GpuPool | None = None
