"""The inner loops of umem, one Python source for every target, and the intrinsics they are made of.

Floor 1. A kernel is an undecorated function over int64 addresses and the intrinsics below. It runs in three
ways: as plain Python (each intrinsic's body asks `machine.current`), compiled for the CPU (`cpu_kernel`),
compiled for CUDA (`cuda_ptx`). Import of this package loads no CUDA.
"""

from . import faults, machine, status
from .compile import CpuKernel, c_callback, cpu_kernel, device_function, load_all
from .ops import *  # noqa: F403
from .ops_system import *  # noqa: F403
from .ops_vector import *  # noqa: F403

__all__ = ["CpuKernel", "c_callback", "cpu_kernel", "device_function", "faults", "load_all", "machine", "status"]
