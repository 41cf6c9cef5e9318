"""The inner loops of umem, one Python source for every target, and the intrinsics they are made of.

Floor 1. A kernel is an undecorated function over int64 addresses and the intrinsics below. It runs in three
ways: as plain Python (each intrinsic's body asks `machine.current`), compiled for the CPU (`cpu_kernel`),
compiled for CUDA (`cuda_ptx`). Importing this package loads Numba, and nothing of CUDA.

| from | names |
|---|---|
| intrinsics/scalar.py | typed loads and stores, atomics, fences |
| intrinsics/vector.py | vectors as wide as the target, half-precision loads and stores |
| intrinsics/system.py | waiting, time, bits, bulk copy, calls of C functions |
| data/group.py | copies, put with a signal, waits and a barrier by a thread, a warp, a block; imported from there |
| build/compile.py | device_function, inlined_function, cpu_kernel, c_callback, load_all |
| build/cuda.py | cuda_ptx, cuda_cubin |
| build/code_object.py | code_object: a kernel for every generation of CUDA devices, compiled once |
"""

from . import status
from .build import direct_memory as direct_memory
from .build.code_object import CodeObject, code_object
from .build.compile import (
    CCallback,
    CpuKernel,
    c_callback,
    cpu_kernel,
    device_function,
    inlined_function,
    load_all,
)
from .build.cuda import cuda_cubin, cuda_ptx
from .intrinsics import faults, machine, scalar, system, vector
from .intrinsics.scalar import *  # noqa: F403
from .intrinsics.system import *  # noqa: F403
from .intrinsics.vector import *  # noqa: F403

__all__ = [
    "CCallback",
    "CodeObject",
    "CpuKernel",
    "c_callback",
    "code_object",
    "cpu_kernel",
    "cuda_cubin",
    "cuda_ptx",
    "device_function",
    "faults",
    "inlined_function",
    "load_all",
    "machine",
    "status",
]
__all__ += scalar.__all__ + system.__all__ + vector.__all__
