"""numba-cuda's own kernels on the driver: what they use beyond umem's, blocks' shared memory and warps."""

from __future__ import annotations

import numpy as np
from arena import MIB, arena
from cuda.core import ObjectCode
from forked import run_each
from numba import cuda
from numba.cuda import codegen

from umem.memory.device.cuda_run import copy_in, copy_out

# The driver compiles PTX, so numba-cuda need not link a cubin of it.
codegen.CUDACodeLibrary.get_cubin = lambda self, cc=None: ObjectCode.from_ptx(
    self.get_asm_str(cc).encode() + b"\0"
)


@cuda.jit
def weighted(a, b, c):
    i = cuda.grid(1)
    if i < c.size:
        c[i] = a[i] * 2 + b[i]


@cuda.jit
def sum_of_block(a, out):
    shared = cuda.shared.array(64, dtype=np.float32)
    t = cuda.threadIdx.x
    shared[t] = a[cuda.grid(1)]
    cuda.syncthreads()
    step = 32
    while step > 0:
        if t < step:
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step //= 2
    if t == 0:
        cuda.atomic.add(out, 0, shared[0])


@cuda.jit
def sum_of_warp(a, out):
    value = a[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
    if cuda.laneid == 0:
        cuda.atomic.add(out, 0, value)


class Over:
    """Memory of a GPU as an array of another library sees it."""

    def __init__(self, pointer: int, count: int, dtype: str):
        kind = np.dtype(dtype).str
        self.__cuda_array_interface__ = {
            "shape": (count,),
            "typestr": kind,
            "data": (pointer, False),
            "version": 3,
        }


def own_kernels_run() -> None:
    count = 1024
    a, b = np.arange(count, dtype=np.float32), np.ones(count, np.float32)
    on_gpu, ones, result = cuda.to_device(a), cuda.to_device(b), cuda.device_array(count, np.float32)
    weighted[4, 256](on_gpu, ones, result)
    np.testing.assert_array_equal(result.copy_to_host(), a * 2 + b)
    for kernel in (sum_of_block, sum_of_warp):
        total = cuda.to_device(np.zeros(1, np.float32))
        kernel[count // 64, 64](on_gpu, total)
        assert total.copy_to_host()[0] == a.sum(), kernel


def arrays_lie_over_umem_s_memory() -> None:
    """Without a copy, on a stream of numba-cuda's own."""
    with arena() as gpu:
        data = np.arange(1000, dtype=np.float32)
        copy_in(gpu.gpu, gpu[0], data.tobytes())
        array = cuda.as_cuda_array(Over(gpu[0], 1000, "float32"))
        result = cuda.as_cuda_array(Over(gpu[0] + MIB, 1000, "float32"))
        stream = cuda.stream()
        weighted[8, 128, stream](array, array, result)
        stream.synchronize()
        np.testing.assert_array_equal(
            np.frombuffer(copy_out(gpu.gpu, gpu[0] + MIB, 4000), np.float32), 3 * data
        )


STEPS = (own_kernels_run, arrays_lie_over_umem_s_memory)


def run_all() -> None:
    run_each(STEPS)
