"""Arrays in the global address space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import AddressError, ArgumentTypeError
from .current import Holder, opened
from .dtypes import element_type, values_as


class Array:
    """An n-dimensional array at one address, row-major; valid in every rank.

    `numpy()` and `torch()` give views without copies where every home is mapped; elsewhere they raise
    NotMappable, and `read`, `write` move the elements. Pickles as its address: the receiver gets the
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
        """A torch tensor over the same memory, no copy. Needs torch, and a dtype that torch has."""
        import torch

        if self.dtype.name == "bfloat16":
            return torch.from_numpy(self.numpy().view(np.int16)).view(torch.bfloat16)
        try:
            torch.from_numpy(np.empty(0, self.dtype))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"torch has no dtype {self.dtype}: {error}") from None
        return torch.from_numpy(self.numpy())

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
