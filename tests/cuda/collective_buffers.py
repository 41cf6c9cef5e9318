"""Buffers of every kind that a rank hands to collectives, written and read by the host."""

from __future__ import annotations

import numpy as np

from umem.space.dtypes import element_type


class Private:
    """Elements in memory of this rank's GPU that is not the space's, as CuPy would have them."""

    def __init__(self, space, num, dtype):
        self.gpu, self.dtype, self.num = space.gpu, element_type(dtype), num
        self.gpu.device.make_current()
        self.driver = self.gpu.device.driver
        self.pointer = int(self.driver.call("cuMemAlloc", max(num * self.dtype.itemsize, 16)))

    @property
    def __cuda_array_interface__(self):

        return {"shape": (self.num,), "typestr": self.dtype.str, "data": (self.pointer, False), "version": 3}

    def write(self, array):
        array = np.ascontiguousarray(array)
        if array.nbytes:
            self.driver.call("cuMemcpyHtoD", self.pointer, array.ctypes.data, array.nbytes)

    def read(self):
        found = np.empty(self.num, self.dtype)
        if found.nbytes:
            self.driver.call("cuMemcpyDtoH", found.ctypes.data, self.pointer, found.nbytes)
        return found

    def free(self):
        self.driver.call("cuMemFree", self.pointer)


class Host:
    """Elements of a NumPy array."""

    def __init__(self, space, num, dtype):
        self.array = np.empty(num, element_type(dtype))

    def write(self, array):
        self.array[:] = array

    def read(self):
        return self.array.copy()

    def free(self):
        pass


class Shared:
    """Elements of the space, at a home."""

    def __init__(self, space, num, dtype, home="local"):
        self.array = space.empty(num, dtype, home)
        self.write, self.read, self.free = self.array.write, self.array.read, self.array.free


def given(buffer):
    return getattr(buffer, "array", buffer)


def kinds(space, dtype):
    """What makes buffers: of the space and not, on any rank; CUDA's array interface has no name for bfloat16."""
    if dtype == "bfloat16":
        return (Shared,)
    return (Shared, Private if space.segments.gpu is not None else Host)
