"""Replaces torch's CPU allocator without a compiler: finds it in libc10, verifies its layout, puts ours in its place.

c10::Allocator is a C++ class. On x86-64 an object of it is a pointer to a table of functions, and ours is
made of compiled callbacks. torch promises neither the table's layout nor that of `allocate`'s result, so both are
checked against torch's live default allocator before anything is replaced; where they differ, or on another CPU,
shim.py compiles the same few lines with the system's compiler.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import torch

from ..errors import AllocatorRefused
from . import callbacks
from .layout import (
    PAGE_ADDRESS,
    PAGE_DEFAULT,
    PAGE_DEFAULT_ALLOCATE,
    PAGE_DEFAULT_DELETE,
    PAGE_OBJECT,
    PAGE_THROW,
    PAGE_VTABLE,
)
from .memory import Words, keep_forever

# Slots of the table: two destructors, then the virtual functions in the order of c10/core/Allocator.h.
ALLOCATE, IS_SIMPLE, RAW_DELETER, COPY_DATA, NUM_SLOTS = 2, 3, 4, 5, 6
HEADER_WORDS = 2  # before the slots: offset to the top, type information
UNTOUCHED = 0xAAAA_AAAA_AAAA_AAAA
_PROBE_BYTES = 100
PRIORITY = 1  # above the 0 that torch's own has

GET_ALLOCATOR = "_ZN3c1015GetCPUAllocatorEv"
SET_ALLOCATOR = "_ZN3c1015SetCPUAllocatorEPNS_9AllocatorEh"
IS_SIMPLE_SYMBOL = "_ZNK3c109Allocator18is_simple_data_ptrERKNS_7DataPtrE"
THROW_SYMBOL = "_ZSt21__throw_runtime_errorPKc"  # of the C++ library that torch itself uses


class _Symbol(ctypes.Structure):
    """Dl_info of dladdr."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class C10:
    """libc10 of the torch that is loaded. Raises AllocatorRefused where it lacks a needed symbol."""

    def __init__(self) -> None:
        self.path = Path(torch.__file__).parent / "lib" / "libc10.so"
        try:
            self._library = ctypes.CDLL(str(self.path))
            self._get = self._library[GET_ALLOCATOR]
            self._set = self._library[SET_ALLOCATOR]
            self.throw = _address(self._library[THROW_SYMBOL])
        except (OSError, AttributeError) as error:
            raise AllocatorRefused(
                f"torch {torch.__version__} cannot be given an allocator: {error}"
            ) from None
        self._get.restype = ctypes.c_void_p
        self._set.argtypes = [ctypes.c_void_p, ctypes.c_uint8]

    def allocator(self) -> int:
        """Address of the CPU allocator in force."""
        return int(self._get())

    def replace(self, allocator: int) -> None:
        """Put the object at `allocator` in force."""
        self._set(allocator, PRIORITY)
        if self.allocator() != allocator:
            raise AllocatorRefused("another library has given torch an allocator of a higher priority")

    def default_functions(self, allocator: int) -> tuple[int, int, list[int]]:
        """(allocate, delete, all slots) of `allocator`, once its layout is verified. Raises AllocatorRefused.

        Every function is looked up before one is called, so that a strange table is an error, not a crash.
        """
        if platform.machine() != "x86_64":
            raise AllocatorRefused(
                f"the layout of C++ objects is known for x86_64, not for {platform.machine()}"
            )
        table = _word(allocator)
        slots = [_word(table + 8 * slot) for slot in range(NUM_SLOTS)]
        self._check(
            slots[IS_SIMPLE] == _address(self._library[IS_SIMPLE_SYMBOL]), "slot 3 is another function"
        )
        for slot in (ALLOCATE, RAW_DELETER, COPY_DATA):
            self._check(self._is_own(slots[slot]), f"slot {slot} is no function of {self.path.name}")
        delete = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(slots[RAW_DELETER])(allocator)
        self._check(self._is_own(delete), "raw_deleter returns no function")
        words = (ctypes.c_uint64 * 8)(*[UNTOUCHED] * 8)
        allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        returned = allocate(slots[ALLOCATE])(ctypes.addressof(words), allocator, _PROBE_BYTES)
        self._check(returned == ctypes.addressof(words), "allocate returns by other means")
        data, deleter, context, device, after = words[:5]
        self._check(
            data != 0 and data % callbacks.ALIGNMENT == 0 and context == data, "a DataPtr looks otherwise"
        )
        self._check(deleter == delete, "a DataPtr has its deleter elsewhere")
        is_cpu = device & 0xFFFF == callbacks.CPU_DEVICE and after == UNTOUCHED
        self._check(is_cpu, "a DataPtr has its device elsewhere")
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(delete)(data)
        return slots[ALLOCATE], delete, slots

    def _is_own(self, function: int | None) -> bool:
        """Whether `function` is code of libc10."""
        found = _Symbol()
        known = ctypes.CDLL(None).dladdr(ctypes.c_void_p(function), ctypes.byref(found))
        return bool(known) and Path(found.file.decode()).name == self.path.name

    def _check(self, holds: bool, difference: str) -> None:
        if not holds:
            raise AllocatorRefused(
                f"the allocator of torch {torch.__version__} is not laid out as known: {difference}"
            )


def make_object(page: Words, c10: C10, default: int) -> int:
    """Make an allocator over the default one at `default`, its table and object in the page. Returns its address."""
    allocate, delete, slots = c10.default_functions(default)
    page[PAGE_DEFAULT], page[PAGE_DEFAULT_ALLOCATE], page[PAGE_DEFAULT_DELETE] = default, allocate, delete
    page[PAGE_THROW] = c10.throw
    own = (callbacks.destroy, callbacks.destroy, callbacks.allocate, None, callbacks.raw_deleter, None)
    page[PAGE_VTABLE] = 0
    page[PAGE_VTABLE + 1] = _word(_word(default) - 8)  # type information, for dynamic_cast
    for slot, callback in enumerate(own):
        page[PAGE_VTABLE + HEADER_WORDS + slot] = slots[slot] if callback is None else callback.address
        if callback is not None:
            keep_forever(callback.load())
    page[PAGE_OBJECT] = PAGE_ADDRESS + (PAGE_VTABLE + HEADER_WORDS) * 8
    return PAGE_ADDRESS + PAGE_OBJECT * 8


def _word(address: int) -> int:
    return int(ctypes.c_uint64.from_address(address).value)


def _address(function: Any) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
