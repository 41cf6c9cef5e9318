"""The buffers that programs hand to collectives: pointers, element types and lengths of whatever holds the elements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..errors import ArgumentTypeError, ConfigError
from ..kernels.data.reduce import AVERAGE, MAXIMUM, MINIMUM, OPERATION_NAMES, PRODUCT, SUM
from ..space.array import Array
from ..space.dtypes import element_type

# Elements that can be combined: what kernels call them.
COMBINABLE = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "bool": "u8",
}
ELEMENT_NAMES = (*COMBINABLE, "bytes")
OPAQUE = len(COMBINABLE)  # every other type: moved, and not combined
# A bool is a byte of 0 or 1: sums are "or", products "and".
OF_BOOLS = {SUM: MAXIMUM, PRODUCT: MINIMUM, MINIMUM: MINIMUM, MAXIMUM: MAXIMUM}


@dataclass(slots=True)
class Buffer:
    """Elements in one piece at `pointer`; `owner` keeps them alive. `original` is to be filled from them at the end."""

    pointer: int
    type_index: int  # in ELEMENT_NAMES
    item_bytes: int
    num_elements: int
    owner: Any
    original: Any = None
    stream: int = 0  # of a GPU: what fills or reads the elements; 0 is the default one

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return self.item_bytes * self.num_elements

    def settle(self) -> None:
        """Fill what the program handed over, where this is a copy of it."""
        if self.original is not None:
            if isinstance(self.original, np.ndarray):
                self.original[...] = self.owner
            else:
                self.original.copy_(self.owner)


_TYPES: dict[Any, tuple[int, int]] = {}


def type_of(dtype: Any) -> tuple[int, int]:
    """(index in ELEMENT_NAMES, bytes) of a dtype of NumPy or torch."""
    kind = element_type(dtype)
    known = list(COMBINABLE).index(kind.name) if kind.name in COMBINABLE and kind.isnative else OPAQUE
    _TYPES[dtype] = known, kind.itemsize
    return _TYPES[dtype]


def buffer_of(given: Any, what: str, *, is_written: bool = False) -> Buffer:
    """The elements of a NumPy array, a torch tensor on the CPU, or an Array of the space.

    What is not in one piece is copied, and copied back by `settle`. Raises ArgumentTypeError for what has no elements
    here, ConfigError for a read-only array that `is_written`.
    """
    if isinstance(given, np.ndarray):
        return _of_numpy(given, what, is_written)
    if isinstance(given, Array):
        if not given.space.reaches_by_cpu(given.address, given.nbytes):
            return _of_numpy(given.numpy(), what, is_written)  # which says why it cannot be
        return Buffer(given.address, *(_TYPES.get(given.dtype) or type_of(given.dtype)), given.size, given)
    if hasattr(given, "data_ptr") and hasattr(given, "is_contiguous"):
        return _of_torch(given, what)
    raise ArgumentTypeError(
        f"{what} is a {type(given).__name__}: collectives take NumPy arrays, torch tensors and arrays of the space"
    )


def _of_numpy(array: np.ndarray, what: str, is_written: bool) -> Buffer:
    if is_written and not array.flags.writeable:
        raise ConfigError(f"{what} is read-only")
    kind = _TYPES.get(array.dtype) or type_of(array.dtype)
    whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    original = array if is_written and whole is not array else None
    return Buffer(whole.__array_interface__["data"][0], *kind, whole.size, whole, original)


@cache
def _is_strided(layout: Any) -> bool:
    """Whether a torch.layout is that of plain tensors, for code that does not import torch."""
    return str(layout) == "torch.strided"


def _of_torch(tensor: Any, what: str) -> Buffer:
    if not tensor.is_cpu:
        raise ArgumentTypeError(f"{what} is on {tensor.device}: collectives take tensors of the CPU")
    if not _is_strided(tensor.layout) or tensor.is_conj() or tensor.is_neg():
        raise ArgumentTypeError(
            f"{what} has layout {tensor.layout}, or is a lazy view: pass .to_dense(), .resolve_conj()"
        )
    kind = _TYPES.get(tensor.dtype) or type_of(tensor.dtype)
    if tensor.is_contiguous():
        return Buffer(tensor.data_ptr(), *kind, tensor.numel(), tensor)
    tensor = tensor.detach()
    whole = tensor.contiguous()
    return Buffer(whole.data_ptr(), *kind, whole.numel(), whole, tensor)


@cache
def reduction_of(op: Any, type_index: int) -> tuple[int, str]:
    """(operation, element) of the kernel that combines. Raises ConfigError, ArgumentTypeError."""
    if op not in OPERATION_NAMES:
        raise ConfigError(f"op={op!r} is no reduction; there are {', '.join(OPERATION_NAMES)}")
    operation = OPERATION_NAMES.index(op)
    if type_index == OPAQUE:
        raise ArgumentTypeError(f"elements that can be combined are {', '.join(COMBINABLE)}")
    name = ELEMENT_NAMES[type_index]
    if name == "bool":
        if operation == AVERAGE:
            raise ArgumentTypeError("bools have no average: convert them, or use sum (or), prod (and)")
        operation = OF_BOOLS[operation]
    return operation, COMBINABLE[name]
