"""Reductions in parts: elements to the type in which parts are passed on, and the last part to the result.

16-bit elements are passed on as float32, and averages of integers as sums in 64 bits: so what comes of parts has the
roundings of data/reduce.py, wherever the parts were made.
"""

from __future__ import annotations

from functools import cache

from ..build.compile import CCallback, c_callback
from ..build.variants import ON_DEMAND, family
from ..data.reduce import AVERAGE, HALF_TYPES, OPERATION_NAMES, as_it_is, divide_float, divide_integer
from ..intrinsics import scalar
from ..intrinsics import vector as ops_vector
from ..intrinsics.scalar import load_f32 as load
from ..intrinsics.scalar import load_f32 as load_wide
from ..intrinsics.scalar import store_f32 as store
from ..intrinsics.scalar import store_f32 as store_wide

finish = as_it_is

# Templates, written for sums of float32.


def widen(dst, src, num_elements):
    """Elements as parts."""
    index = 0
    while index < num_elements:
        store_wide(dst, index, load(src, index))
        index += 1


def conclude(dst, totals, num_elements, num_sources):
    """The result of the last part, of so many inputs."""
    index = 0
    while index < num_elements:
        store(dst, index, finish(load_wide(totals, index), num_sources))
        index += 1


def wide_name(operation: int, name: str) -> str:
    """The type in which parts of a reduction of such elements are passed on."""
    if name in HALF_TYPES:
        return "f32"
    return "i64" if operation == AVERAGE and name[0] in "iu" else name


@cache
def conversions(operation: int, name: str) -> tuple[CCallback, CCallback]:
    """(int64(dst, src, num_elements): `widen`; int64(dst, totals, num_elements | num_sources << 40): `conclude`)."""
    wide, is_half = wide_name(operation, name), name in HALF_TYPES
    names = {} if operation != AVERAGE else {"finish": divide_float if wide[0] == "f" else divide_integer}
    forms = family(
        (widen, conclude),
        f"{OPERATION_NAMES[operation]}_{name}",
        load=getattr(ops_vector, f"load_{name}_f32") if is_half else getattr(scalar, f"load_{name}"),
        store=getattr(ops_vector, f"store_f32_{name}") if is_half else getattr(scalar, f"store_{name}"),
        load_wide=getattr(scalar, f"load_{wide}"),
        store_wide=getattr(scalar, f"store_{wide}"),
        **names,
    )
    widen_all, conclude_all = forms.widen, forms.conclude

    def to_parts(dst, src, num_elements):
        widen_all(dst, src, num_elements)
        return 0

    def to_result(dst, totals, sizes):
        conclude_all(dst, totals, sizes & ELEMENTS_MASK, sizes >> SOURCES_SHIFT)
        return 0

    made = (c_callback("int64(int64, int64, int64)", group=ON_DEMAND)(each) for each in (to_parts, to_result))
    to_wide, to_narrow = made
    return to_wide, to_narrow


SOURCES_SHIFT = 40  # of `conclude`'s last argument: the inputs, above the elements
ELEMENTS_MASK = (1 << SOURCES_SHIFT) - 1
