"""DLPack capsules over memory that no library owns: the tensor that a consumer is handed, and how it is freed.

The structs, by DLPack's names, are those of dlpack.h 1.0, and of the versions before, which consumers that name no
version still read. One block of C's malloc holds struct, shape and strides, and its deleter is C's free: a consumer
may call it from any thread, without the GIL, and while Python ends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentTypeError

K_CPU, K_CUDA = 1, 2  # DLDeviceType
VERSION = (1, 0)
# DLDataTypeCode, by NumPy's kinds; bfloat16 has one of its own
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT_CODE = 4


class DLTensor(ctypes.Structure):
    """A tensor's description; strides are in elements."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    """What a capsule "dltensor" holds."""

    _fields_ = [("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class DLManagedTensorVersioned(ctypes.Structure):
    """What a capsule "dltensor_versioned" holds."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    ]


# name of a capsule that nobody has consumed -> what it holds
CAPSULES: dict[bytes, type[ctypes.Structure]] = {
    b"dltensor": DLManagedTensor,
    b"dltensor_versioned": DLManagedTensorVersioned,
}

_libc = ctypes.CDLL(None)
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_libc.free.restype, _libc.free.argtypes = None, [ctypes.c_void_p]
_free = ctypes.cast(_libc.free, ctypes.c_void_p).value

_api = ctypes.pythonapi
_new = _api.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
# Of a capsule that is being destroyed, which no Python object may refer to: a plain pointer.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _destroy(capsule: int) -> None:
    """A consumer renames the capsule and frees by the deleter; of one that nobody consumed, the memory is here."""
    for name in CAPSULES:
        if _is_valid(capsule, name):
            _libc.free(_get(capsule, name))


def type_of(dtype: np.dtype) -> tuple[int, int]:
    """(DLDataTypeCode, bits) of a dtype. Raises ArgumentTypeError where DLPack has none."""
    if dtype.name == "bfloat16":
        return _BFLOAT_CODE, 16
    if dtype.kind not in _CODES or not dtype.isnative:
        raise ArgumentTypeError(
            f"DLPack has no dtype {dtype.str}; a view of it as whole numbers has one, or use read/write"
        )
    return _CODES[dtype.kind], 8 * dtype.itemsize


def capsule(
    pointer: int, shape: Sequence[int], dtype: np.dtype, device: tuple[int, int], *, is_versioned: bool
) -> Any:
    """A capsule over row-major memory at `pointer`. It frees itself, and keeps the memory alive in no way."""
    name = b"dltensor_versioned" if is_versioned else b"dltensor"
    kind = CAPSULES[name]
    code, bits = type_of(dtype)  # raises before there is anything to free
    size, num_dims = ctypes.sizeof(kind), len(shape)
    block = _libc.malloc(size + 2 * 8 * num_dims)
    if not block:
        raise MemoryError
    made: Any = kind.from_address(block)
    made.manager_ctx, made.deleter = None, _free
    if is_versioned:
        made.major, made.minor, made.flags = *VERSION, 0
    extents = (ctypes.c_int64 * (2 * num_dims)).from_address(block + size)
    stride = 1
    for axis in reversed(range(num_dims)):
        extents[axis], extents[num_dims + axis] = shape[axis], stride
        stride *= shape[axis]
    word = ctypes.POINTER(ctypes.c_int64)
    made.dl_tensor = DLTensor(
        data=pointer,
        device_type=device[0],
        device_id=device[1],
        ndim=num_dims,
        code=code,
        bits=bits,
        lanes=1,
        shape=ctypes.cast(block + size, word),
        strides=ctypes.cast(block + size + 8 * num_dims, word),
        byte_offset=0,
    )
    return _new(block, name, ctypes.cast(_destroy, ctypes.c_void_p))
