"""Coherent access as Python makes it: one compiled call for each width, integers of the same bits as the element.

Loaded when a space first touches cached memory: a program without cached memory pays nothing for it.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel
from .typed import any_change, coherent_load_i8, coherent_load_i16, coherent_load_i32, coherent_load_i64

COHERENCE_KERNELS = "coherence"
_change_i8, _change_i16, _change_i32, _change_i64 = (any_change(name) for name in ("i8", "i16", "i32", "i64"))
_LOAD = "UniTuple(int64, 2)(int64, int64)"
_CHANGE = "UniTuple(int64, 2)(int64, int64, int64, int64, int64)"


@cpu_kernel(_LOAD, group=COHERENCE_KERNELS)
def load_1(cache, address):
    """(code, value) of one byte."""
    return coherent_load_i8(cache, address)


@cpu_kernel(_LOAD, group=COHERENCE_KERNELS)
def load_2(cache, address):
    """(code, value) of two bytes."""
    return coherent_load_i16(cache, address)


@cpu_kernel(_LOAD, group=COHERENCE_KERNELS)
def load_4(cache, address):
    """(code, value) of four bytes."""
    return coherent_load_i32(cache, address)


@cpu_kernel(_LOAD, group=COHERENCE_KERNELS)
def load_8(cache, address):
    """(code, value) of eight bytes."""
    return coherent_load_i64(cache, address)


@cpu_kernel(_CHANGE, group=COHERENCE_KERNELS)
def change_1(cache, address, operation, first, second):
    """(code, what stood there) of one byte, changed by an operation of coherent/layout.py."""
    return _change_i8(cache, address, operation, first, second)


@cpu_kernel(_CHANGE, group=COHERENCE_KERNELS)
def change_2(cache, address, operation, first, second):
    """(code, what stood there) of two bytes."""
    return _change_i16(cache, address, operation, first, second)


@cpu_kernel(_CHANGE, group=COHERENCE_KERNELS)
def change_4(cache, address, operation, first, second):
    """(code, what stood there) of four bytes."""
    return _change_i32(cache, address, operation, first, second)


@cpu_kernel(_CHANGE, group=COHERENCE_KERNELS)
def change_8(cache, address, operation, first, second):
    """(code, what stood there) of eight bytes."""
    return _change_i64(cache, address, operation, first, second)


LOADS = {1: load_1, 2: load_2, 4: load_4, 8: load_8}
CHANGES = {1: change_1, 2: change_2, 4: change_4, 8: change_8}
