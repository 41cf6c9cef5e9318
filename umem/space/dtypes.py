"""Dtypes and values of a program's accesses: stored without loss but rounding of floats, or refused.

| value | into | |
|---|---|---|
| integer, bool | integer | where it fits; else ArgumentRangeError |
| integer, float, bool | float | rounded to nearest even, as NumPy does |
| float, complex, string, None | integer | ArgumentTypeError, whole floats and NaN too |
| all else | | where NumPy's rules call it safe; else ArgumentTypeError |

A dtype may have fields, titles, offsets, units. It must have a size, and hold no Python objects: those are
pointers, which mean nothing in another process.
"""

from __future__ import annotations

import ctypes
import numbers
from typing import Any

import numpy as np

from ..arguments import dimensions, whole
from ..errors import AddressError, ArgumentRangeError, ArgumentTypeError, ConfigError, UnknownName
from ..kernels import access

READY: dict[Any, access.Access] = {}  # by every spelling of a dtype that was met

_TORCH = "torch."
_NUMBERS = "biufc"  # kinds of dtypes: bools, integers, floats, complex
_NOT_OBJECTS = "umem holds bytes, which mean the same in every process; send objects with space.send"


def element_type(dtype: Any) -> np.dtype:
    """The NumPy dtype of elements in memory, from a NumPy or torch dtype, or a name such as "bfloat16".

    Raises ArgumentTypeError for anything else, and for a dtype without a size or with Python objects.
    """
    name = str(dtype) if not isinstance(dtype, type) else ""
    is_torch = name.startswith(_TORCH)
    name = name.removeprefix(_TORCH)
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    try:
        kind = np.dtype(name if is_torch else dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"dtype {dtype!r}: {error}") from None
    if kind.hasobject:
        raise ArgumentTypeError(f"dtype {kind} holds Python objects; {_NOT_OBJECTS}")
    if kind.itemsize == 0:
        raise ArgumentTypeError(f"dtype {kind} has no size; name one, as in 'S8'")
    return kind


def elements(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array; a sub-array dtype adds its extents to the shape, as in NumPy."""
    kind = element_type(dtype)
    return (*dimensions(shape), *kind.shape), kind.base


def access_of(dtype: Any) -> access.Access:
    """The scalar accesses of `dtype`. Raises UnknownName where there are none."""
    kind = element_type(dtype)
    if kind.name not in access.ALL_NAMES:
        raise UnknownName("dtype", dtype, access.ALL_NAMES)
    if not kind.isnative:
        raise ArgumentTypeError(
            f"dtype {kind.str} is not in this machine's byte order, which scalar accesses have; use"
            f" {kind.name}, or read and write whole arrays"
        )
    ready = READY[dtype] = access.ready(kind.name)
    return ready


def scalar_address(value: Any) -> int:
    """`value` as an address of 64 bits, for compiled code. Raises AddressError, ArgumentTypeError."""
    address = whole(value, "address")
    if not -(1 << 63) <= address < 1 << 63:
        raise AddressError(f"address {address:#x} lies in no segment of this world") from None
    return address


def scalar_value(value: Any, element: access.Access) -> Any:
    """`value` as the number that `element` stores: see the table above."""
    number = value
    if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0:
        source = np.asarray(value)
        number = float(source) if source.dtype.name == "bfloat16" else source.item()
    if element.is_float:
        return _as_float(number, element)
    number = int(number) if isinstance(number, bool) else whole(number, f"{element.name} value")
    low, high = element.limits
    if not low <= number <= high:
        raise ArgumentRangeError(
            f"{number} does not fit {element.name}, which holds {low} to {high}"
        ) from None
    return number


def _as_float(number: Any, element: access.Access) -> float:
    if not isinstance(number, numbers.Real | np.longdouble):
        raise ArgumentTypeError(
            f"{element.name} value={number!r} is a {type(number).__name__}, not a number"
        ) from None
    try:
        return float(number)
    except OverflowError:
        raise ArgumentRangeError(f"{number} does not fit {element.name}") from None


def values_as(values: Any, dtype: np.dtype) -> np.ndarray:
    """`values` (anything NumPy makes an array of) as an array of `dtype`: see the table above."""
    is_read_by_numpy = isinstance(dtype, np.dtypes.VoidDType) or dtype.kind in "mM"  # tuples, dates as text
    if is_read_by_numpy and not hasattr(values, "dtype"):
        return np.asarray(values, dtype)
    source = _array_of(values)
    if source.dtype == dtype:
        return source
    if dtype.kind in "iu" and source.dtype.kind in "iuO":
        limits = np.iinfo(dtype)
        for value in (source.min(), source.max()) if source.size else ():
            if not limits.min <= value <= limits.max:
                raise ArgumentRangeError(
                    f"{value} does not fit {dtype}, which holds {limits.min} to {limits.max}"
                )
        return source.astype(dtype)
    if source.dtype.hasobject:
        source = _floats(source)
    given, wanted = _known(source.dtype), _known(dtype)
    casting: Any = "same_kind" if given.kind in _NUMBERS and wanted.kind in _NUMBERS else "safe"
    if source.size and not np.can_cast(given, wanted, casting):
        raise ArgumentTypeError(
            f"values of {source.dtype} would change as {dtype}; convert them as you mean it, such as by astype"
        )
    return source.astype(dtype)


def _array_of(values: Any) -> np.ndarray:
    """NumPy's array of `values`; its dtype is object only for ints that no integer dtype holds together."""
    if str(getattr(values, "dtype", "")) == _TORCH + "bfloat16":
        values = values.float()  # the same numbers in a dtype that torch hands to NumPy
    source = np.asarray(values)
    if source.dtype.kind == "f" and not hasattr(values, "dtype"):
        as_objects = np.asarray(values, object)
        if as_objects.size and _is_of_ints(as_objects):  # [0, 2**64 - 1] are floats to NumPy
            return as_objects
    if source.dtype.hasobject and not _is_of_ints(source):
        raise ArgumentTypeError(f"values of {source.dtype} are Python objects; {_NOT_OBJECTS}")
    return source


def _floats(integers: np.ndarray) -> np.ndarray:
    try:
        return integers.astype(np.float64)
    except OverflowError:
        raise ArgumentRangeError("an integer among the values is too large for a float") from None


def _known(dtype: np.dtype) -> np.dtype:
    """`dtype`, or float32 for bfloat16, which NumPy's casting rules do not know to be a float."""
    return np.dtype(np.float32) if dtype.name == "bfloat16" else dtype


def _is_of_ints(source: np.ndarray) -> bool:
    return source.dtype.kind == "O" and all(isinstance(value, int) for value in source.flat)


def pointer_to(array: np.ndarray, writable: bool) -> int:
    """The address in this process of a C-contiguous array that holds no Python objects."""
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise ConfigError("the array must be a C-contiguous numpy array; use numpy.ascontiguousarray")
    if array.dtype.hasobject:
        raise ArgumentTypeError(f"an array of {array.dtype} holds Python objects; {_NOT_OBJECTS}")
    if not array.flags.writeable:
        if writable and array.nbytes:
            raise ConfigError("the destination array is read-only")
    elif array.nbytes:
        try:
            return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
        except ValueError:  # a dtype that the buffer protocol does not know, such as dates
            pass
    return array.ctypes.data  # three times as slow
