"""Pieces of GPU memory that torch takes and gives back: a MemPool over two compiled functions and a heap."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import DeviceError
from ..kernels import CCallback
from ..memory.device.cuda import CudaDevice
from ..space.space import Space
from ..world.waiting import Deadline, until
from . import cuda_callbacks as callbacks
from .closing import AtClose, let_stay
from .layout import PAGE_GPUS
from .memory import keep_forever, lasting_words, page, words_at

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


class Pieces:
    """Memory that torch takes in pieces by `functions` (alloc, free), from the heap behind `control` and `magazine`.

    A pointer of the GPU is `offset` more than the heap's address.
    """

    def __init__(
        self,
        space: Space,
        at_close: AtClose,
        device: CudaDevice,
        functions: Sequence[CCallback],
        control: int,
        magazine: int,
        offset: int = 0,
    ):
        self.space, self.at_close, self.device = space, at_close, device
        self.part = lasting_words(callbacks.GPU_WORDS)
        words = self._words = words_at(self.part, callbacks.GPU_WORDS)
        words[callbacks.GPU_CONTROL], words[callbacks.GPU_MAGAZINE] = control, magazine
        words[callbacks.GPU_TIMEOUT_NS] = int(space.timeout_s * 1e9)
        words[callbacks.GPU_CONTEXT] = device.context
        words[callbacks.GPU_OFFSET], words[callbacks.GPU_ORDINAL] = offset, device.ordinal
        for word, name in DRIVER_FUNCTIONS.items():
            words[word] = self._function(name)
        for function in functions:
            keep_forever(function.load())
        self._allocator = torch._C._cuda_customAllocator(*(function.address for function in functions))
        keep_forever(self._allocator)  # torch's blocks point to it
        self._mem_pool: Any = None
        space.before_close(self.before_close)

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
        return int(callbacks.poll(self.part))

    def num_kept(self) -> int:
        """Pieces that are lost until the process ends, because the driver gave no event for them."""
        return self._words[callbacks.GPU_NUM_KEPT]

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
        self.end(num_left)

    def end(self, num_left: int) -> None:
        """Take the memory out of torch's reach, after its last use but by `num_left` pieces."""
        raise NotImplementedError

    def _function(self, name: str) -> int:
        """Address of a function of the driver."""
        found = self.device.driver.call("cuGetProcAddress", name.encode(), DRIVER_VERSION, 0, detail=name)
        if not found[0]:
            raise DeviceError("cuGetProcAddress", "no such function", name)
        return int(found[0])


def gpus() -> Any:
    """A word a GPU, then a word a home: the address of its part."""
    table = page()
    if table[PAGE_GPUS] == 0:
        table[PAGE_GPUS] = lasting_words(callbacks.MAX_GPUS + callbacks.MAX_HOMES)
    return words_at(table[PAGE_GPUS], callbacks.MAX_GPUS + callbacks.MAX_HOMES)
