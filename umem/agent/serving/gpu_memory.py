"""What the agent of a rank with a GPU holds to serve that memory (gpu_handlers.py): a stream, kernels, scratch.

Loaded in GPU ranks only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...kernels.build.code_object import code_object
from ...kernels.data import gather_sum, reduce
from ...kernels.data.gather import GATHER_ROWS, cuda_gather_rows
from ...kernels.data.gather_sum import CUDA_GATHER_SUM
from ...kernels.data.reduce import CUDA_REDUCE
from ...kernels.page.control import CONTROL_SERVED
from ...kernels.page.serve_word import SERVE_WORD, serve_word
from ...memory.device.cuda_run import Module
from ..private_memory import PrivateMemory
from .gpu_handlers import (
    CU_STREAM_NON_BLOCKING,
    FUNCTIONS,
    KERNEL_GATHER,
    KERNEL_GATHER_SUM,
    KERNEL_REDUCE,
    KERNEL_WORD,
    NUM_VALUES,
    SCRATCH_BYTES,
    SERVED_ANSWER,
    SERVED_CONTEXT,
    SERVED_KERNELS,
    SERVED_OFFSET,
    SERVED_PARAMETERS,
    SERVED_SCRATCH,
    SERVED_STREAM,
    SERVED_VALUES,
    SERVED_WORDS,
    WORD,
)

if TYPE_CHECKING:
    from ...memory.device.cuda import CudaDevice


class GpuMemory:
    """What the agent of a rank with a GPU needs to serve its memory; `address` is that of the words SERVED_*."""

    def __init__(self, gpu: CudaDevice, control: int, some_address: int):
        self._gpu = gpu
        gpu.make_current()
        driver = gpu.driver
        self._stream = int(driver.call("cuStreamCreate", CU_STREAM_NON_BLOCKING))
        self._scratch = int(driver.call("cuMemAlloc", SCRATCH_BYTES, detail="what is served"))
        self._modules: list[Module] = []
        words = self._words = PrivateMemory(4096).words(SERVED_WORDS)
        words[SERVED_OFFSET] = gpu.pointer(some_address) - some_address
        words[SERVED_CONTEXT], words[SERVED_STREAM] = int(gpu.context), self._stream
        words[SERVED_SCRATCH] = self._scratch
        for word, name in FUNCTIONS.items():
            words[word] = driver.function(name)
        for index in range(NUM_VALUES):
            words[SERVED_PARAMETERS + index] = words.address + (SERVED_VALUES + index) * WORD
        words[SERVED_ANSWER] = control + CONTROL_SERVED * WORD
        self.address = words.address
        self._load(KERNEL_WORD, serve_word, SERVE_WORD)
        self._load(KERNEL_GATHER, cuda_gather_rows, GATHER_ROWS)
        self._load(KERNEL_GATHER_SUM, CUDA_GATHER_SUM["f32"], gather_sum.GATHER_SUM_SIGNATURE)
        self._load(KERNEL_REDUCE, CUDA_REDUCE["f32"], reduce.REDUCE_SIGNATURE)

    def load_other_types(self) -> None:
        """Let near sums of other types than float32 be served too."""
        for kernels, first, signature in (
            (CUDA_GATHER_SUM, KERNEL_GATHER_SUM, gather_sum.GATHER_SUM_SIGNATURE),
            (CUDA_REDUCE, KERNEL_REDUCE, reduce.REDUCE_SIGNATURE),
        ):
            for place, kernel in enumerate(kernels.values()):
                if self._words[SERVED_KERNELS + first + place] == 0:
                    self._load(first + place, kernel, signature)

    def close(self) -> None:
        """Give back what it holds of the GPU. After the agent's end."""
        if self._gpu.driver.is_lost:
            return
        self._gpu.make_current()
        self._gpu.driver.call("cuStreamDestroy", self._stream)
        self._gpu.driver.call("cuMemFree", self._scratch)
        for module in self._modules:
            module.close()

    def _load(self, number: int, kernel: Any, signature: str) -> None:
        code = code_object(kernel, signature)
        module = Module(self._gpu, code)
        self._modules.append(module)
        self._words[SERVED_KERNELS + number] = module.function(code.entry)
