"""Reductions in parts have the bits of those at once, whatever the elements are."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from umem.collectives.partial import Partial
from umem.kernels.collective.reductions import reduction
from umem.kernels.data.reduce import AVERAGE, OPERATION_NAMES
from umem.space.dtypes import element_type

NUM_ELEMENTS, NUM_MEMBERS = 4099, 5
NEVER = 1 << 62
TYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
}


def combined(operation, element, arrays):
    """What the kernel makes of all of them at once."""
    result = np.empty_like(arrays[0])
    sources = (ctypes.c_int64 * len(arrays))(*(array.ctypes.data for array in arrays))
    shape = (ctypes.c_int64 * 3)(len(arrays), len(result), NEVER)
    kernel = reduction(operation, element)
    kernel.ctypes(result.ctypes.data, ctypes.addressof(sources), ctypes.addressof(shape))
    return result


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("operation", range(len(OPERATION_NAMES)), ids=OPERATION_NAMES)
def test_parts_give_the_bits_of_the_whole(operation, element):
    partial, rng = Partial(operation, element), np.random.default_rng(3)
    dtype, wide = element_type(TYPES[element]), element_type(TYPES[partial.wide])
    # Any bits: infinities and NaNs too; in the first half numbers, of which sums stay numbers.
    inputs = [
        rng.integers(0, 256, NUM_ELEMENTS * dtype.itemsize, np.uint8).view(dtype) for _ in range(NUM_MEMBERS)
    ]
    if dtype.kind not in "iu":
        for array in inputs:
            array[: NUM_ELEMENTS // 2] = rng.standard_normal(NUM_ELEMENTS // 2).astype(dtype)
    whole = combined(operation, element, inputs)
    widened = np.empty((NUM_MEMBERS, NUM_ELEMENTS), wide)
    for array, part in zip(inputs, widened, strict=True):
        partial.widen(part.ctypes.data, array.ctypes.data, NUM_ELEMENTS)
    total = widened[0]
    for part in widened[1:]:
        partial.join(total.ctypes.data, total.ctypes.data, part.ctypes.data, NUM_ELEMENTS)
    parts = np.empty_like(whole)
    partial.conclude(parts.ctypes.data, total.ctypes.data, NUM_ELEMENTS, NUM_MEMBERS)
    if partial.is_final:
        assert total.tobytes() == whole.tobytes()
    assert parts.tobytes() == whole.tobytes()
    assert operation != AVERAGE or not partial.is_final
