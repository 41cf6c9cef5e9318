"""What programs hand to a space, checked: dtypes, shapes, arrays."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import ConfigError, UnknownName
from .kernels import access

READY: dict[Any, access.Access] = {}  # by every spelling of a dtype that was met


def access_of(dtype: Any) -> access.Access:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in access.NAMES:
        raise UnknownName("dtype", dtype, tuple(access.NAMES))
    ready = READY[dtype] = access.ready(name)
    return ready


def dimensions(shape: int | Sequence[int]) -> tuple[int, ...]:
    dims = (shape,) if isinstance(shape, int) else tuple(operator.index(extent) for extent in shape)
    if any(extent < 0 for extent in dims):
        raise ConfigError(f"shape {dims} has a negative extent")
    return dims


def pointer_to(array: np.ndarray, writable: bool) -> int:
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise ConfigError("the array must be a C-contiguous numpy array; use numpy.ascontiguousarray")
    if array.flags.writeable and array.nbytes:
        # `array.ctypes` would cost half of an access.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    if writable and array.nbytes:
        raise ConfigError("the destination array is read-only")
    return array.ctypes.data
