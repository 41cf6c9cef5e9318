"""Arrays in the global address space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import AddressError, ArgumentTypeError, CupyMissing, DeviceMissing, NotMappable, TorchMissing
from . import dlpack
from .current import Holder, opened
from .dtypes import element_type, values_as


class Array:
    """An n-dimensional array at one address, row-major; valid in every rank.

    `numpy()` and `torch()` give views without copies where every home is mapped, `cupy()` and `torch()` where this
    rank's GPU reaches every home; elsewhere they raise NotMappable, and `read`, `write` move the elements. Libraries
    find the GPU's pointer by `__cuda_array_interface__` and DLPack. Pickles as its address: the receiver gets the
    same memory. The memory lives until `free`, called once, by any rank.
    """

    def __init__(self, space: Holder, address: int, shape: tuple[int, ...], dtype: np.dtype):
        self.space, self.address, self.shape, self.dtype = space, address, shape, element_type(dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    def address_of(self, *index: int) -> int:
        """Address of one element, by integers, negative ones from the end. Raises AddressError out of range."""
        if len(index) != len(self.shape):
            raise AddressError(f"index {index} has {len(index)} dimensions, the array {len(self.shape)}")
        offset = 0
        for given, extent in zip(index, self.shape, strict=True):
            position = whole(given, "index")
            if not -extent <= position < extent:
                raise AddressError(f"index {index} is out of range for shape {self.shape}")
            offset = offset * extent + position % extent
        return self.address + offset * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """A writable view, no copy. Ordering is that of plain loads and stores: synchronise by barrier or signal."""
        return self.space.view(self.address, self.nbytes).view(self.dtype).reshape(self.shape)

    def torch(self) -> Any:
        """A torch tensor over the same memory, no copy: of the CPU where that reaches it, else of this rank's GPU.

        Order it as `__dlpack__` says. Raises TorchMissing, ArgumentTypeError for a dtype that torch does not have.
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise TorchMissing(
                "Array.torch() needs torch, which is not installed: scripts/setup torch"
            ) from None
        is_half = self.dtype.name == "bfloat16"
        try:
            torch.from_numpy(np.empty(0, np.int16 if is_half else self.dtype))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"torch has no dtype {self.dtype}: {error}") from None
        if not self.space.reaches_by_cpu(self.address, self.nbytes) and self._is_for_gpu():
            return torch.from_dlpack(self)
        if is_half:
            return torch.from_numpy(self.numpy().view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(self.numpy())

    def cupy(self) -> Any:
        """A CuPy array over the same memory, no copy: of a GPU or a host, where this rank's GPU reaches it.

        Order it as `__dlpack__` says. Raises CupyMissing, DeviceMissing where this rank works on the CPU, NotMappable,
        ArgumentTypeError for a dtype that CuPy does not have.
        """
        try:
            import cupy
        except ModuleNotFoundError as error:
            if error.name != "cupy":
                raise
            raise CupyMissing(
                "Array.cupy() needs CuPy, which is not installed: pip install cupy-cuda13x"
            ) from None
        self._interface()  # raises what `hasattr` would take for the lack of it
        return cupy.asarray(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """How CUDA libraries (Numba, CuPy, torch) find the memory: version 3, the pointer of this rank's GPU.

        It has no stream, so nobody waits: `space.synchronize` before another library reads, and that library's own
        wait before umem does. Absent (AttributeError) where this rank's GPU does not reach the memory, on ranks of the
        CPU, and for dtypes that it cannot name. What is made of it keeps neither the memory nor the space alive.
        """
        try:
            return self._interface()
        except (DeviceMissing, NotMappable, ArgumentTypeError) as error:
            raise AttributeError(f"no __cuda_array_interface__: {error}") from None

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (type, number) of the memory's device: the CPU where it reaches the memory, else this rank's GPU."""
        if self.space.reaches_by_cpu(self.address, self.nbytes) or not self._is_for_gpu():
            return dlpack.K_CPU, 0
        return dlpack.K_CUDA, self.space.gpu_pointer(self.address, self.nbytes)[0]

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over the same memory, without a copy.

        On the CPU it is NumPy's of `numpy()`. On a GPU (`dl_device` asks for it of host memory too) it keeps nothing
        alive but itself: the memory lives until `free`, the pointer until the space closes. No `stream` is waited for,
        nor made to wait: `space.synchronize` first. Raises NotMappable, ArgumentTypeError for a dtype that DLPack does
        not have, BufferError for a device that does not reach the memory or where a `copy` is asked for.
        """
        device = self.__dlpack_device__() if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        if device[0] == dlpack.K_CPU:
            return self.numpy().__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)
        if copy:
            raise BufferError(
                "arrays of the space are not copied for DLPack: copy what is made of the capsule"
            )
        try:
            ordinal, pointer = self.space.gpu_pointer(self.address, self.nbytes)
        except DeviceMissing as error:
            raise BufferError(f"no capsule for device {device}: {error}") from error
        if device != (dlpack.K_CUDA, ordinal):
            raise BufferError(
                f"no capsule for device {device}: this rank works on ({dlpack.K_CUDA}, {ordinal})"
            )
        is_versioned = max_version is not None and max_version[0] >= dlpack.VERSION[0]
        return dlpack.capsule(pointer, self.shape, self.dtype, device, is_versioned=is_versioned)

    def read(self) -> np.ndarray:
        """A private copy of all elements; works in every world."""
        values = np.empty(self.shape, self.dtype)
        self.space.get(values, self.address)
        return values

    def write(self, values: Any) -> None:
        """Copy `values` (broadcast to the shape) into the array; works in every world.

        Floats are rounded to the array's dtype. Raises ArgumentRangeError for integers that do not fit, and
        ArgumentTypeError for values that would change otherwise, such as floats in an integer array.
        """
        source = np.ascontiguousarray(np.broadcast_to(values_as(values, self.dtype), self.shape))
        self.space.put(self.address, source)

    def free(self) -> None:
        """Free the memory. No rank may use a view of it afterwards."""
        self.space.free(self.address)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def _interface(self) -> dict[str, Any]:
        if self.dtype.name == "bfloat16" or self.dtype.kind not in "biufc":
            raise ArgumentTypeError(
                f"__cuda_array_interface__ has no name for {self.dtype}; DLPack has one for bfloat16, and an array of"
                " whole numbers over the same address has one"
            )
        _, pointer = self.space.gpu_pointer(self.address, self.nbytes)
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (pointer, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def _is_for_gpu(self) -> bool:
        """False where this rank works on the CPU; raises NotMappable where its GPU does not reach the memory."""
        try:
            self.space.gpu_pointer(self.address, self.nbytes)
        except DeviceMissing:
            return False
        return True

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"umem.Array(address={self.address:#x}, shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self.address, self.shape, self.dtype)


def _attach(address: int, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    return Array(opened(), address, shape, dtype)
