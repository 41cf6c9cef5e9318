"""Vector intrinsics: as many lanes as the target's registers hold, the same source everywhere.

T in f32, f64, i32, i64. vec_lanes_T() is the width: a CPU register (16 x f32 with AVX-512, 8 with AVX2,
else 4), 16 bytes on CUDA, 1 in plain Python, where a vector is simply a number. A kernel steps by it and
finishes with scalars. All are plain accesses.

| intrinsic | effect |
|---|---|
| vec_load_T(base, index), vec_store_T(base, index, v) | lanes from element `index` on; CPU: any alignment, CUDA: 16 B |
| vec_stream_T(base, index, v) | store around the caches: address a multiple of 64 B (a fault otherwise), \
stream_fence before publishing; pays above about 2 MiB |
| vec_zero_T(), vec_splat_T(value) | all lanes equal |
| vec_add_T, vec_sub_T, vec_mul_T, vec_min_T, vec_max_T (a, b) | lane by lane; min: a < b ? a : b |
| vec_fma_T(a, b, c) | a * b + c rounded once; floats |
| vec_and_T, vec_or_T, vec_xor_T (a, b), vec_shift_left_T, vec_shift_right_T (a, count) | integers; shifts fill with 0 |
| vec_sum_T(v) -> T | sum of the lanes, in no particular order |
| vec_load_H_f32(base, index), vec_store_f32_H(base, index, v) | H in f16, bf16 (store: nearest even), i8, u8 \
(load only): 2 B or 1 B elements in memory, f32 lanes |
| load_H_f32(base, index) -> f32, store_f32_H(base, index, value) | the same for one element, for tails |
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from . import machine
from .elements import (
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U16,
    Element,
    Number,
    bf16_to_f32,
    f16_to_f32,
    f32_to_bf16,
    f32_to_f16,
    fused_multiply_add,
)
from .intrinsics import Ordering, define

Vector = Number  # one lane in plain Python
Binary = Callable[[Vector, Vector], Vector]


def _lanes(element: Element) -> Callable[[], int]:
    def lanes() -> int:
        return 1

    doc = f"Number of {element.name} in a vector on this target."
    return define(lanes, f"vec_lanes_{element.name}", "vec_lanes", "", "i64", element=element, doc=doc)


def _load(element: Element) -> Callable[[int, int], Vector]:
    def load(base: int, index: int) -> Vector:
        return machine.current.load(base + index * element.num_bytes, element, "plain")

    name, doc = f"vec_load_{element.name}", f"The {element.name} from element `index` on."
    result = f"vec_{element.name}"
    return define(load, name, "vec_load", "i64 i64", result, element=element, ordering="plain", doc=doc)


def _store(element: Element, ordering: Ordering) -> Callable[[int, int, Vector], None]:
    def store(base: int, index: int, vector: Vector) -> None:
        machine.current.store(base + index * element.num_bytes, element, vector, ordering)

    name = f"vec_{'stream' if ordering == 'stream' else 'store'}_{element.name}"
    doc = f"Write all lanes from element `index` on; ordering: {ordering}."
    operands = f"i64 i64 vec_{element.name}"
    return define(store, name, "vec_store", operands, "void", element=element, ordering=ordering, doc=doc)


def _zero(element: Element) -> Callable[[], Vector]:
    def zero() -> Vector:
        return element.wrap(0)

    result = f"vec_{element.name}"
    return define(zero, f"vec_zero_{element.name}", "vec_zero", "", result, element=element, doc="All lanes 0.")


def _splat(element: Element) -> Callable[[Number], Vector]:
    def splat(value: Number) -> Vector:
        return element.wrap(value)

    name, doc = f"vec_splat_{element.name}", "All lanes `value`."
    return define(splat, name, "vec_splat", element.name, f"vec_{element.name}", element=element, doc=doc)


def _sum(element: Element) -> Callable[[Vector], Number]:
    def total(vector: Vector) -> Number:
        return vector

    name, doc = f"vec_sum_{element.name}", "Sum of the lanes, in no particular order."
    return define(total, name, "vec_sum", f"vec_{element.name}", element.name, element=element, doc=doc)


def _binary(operation: str, element: Element, compute: Callable[[Number, Number], Number]) -> Binary:
    def binary(a: Vector, b: Vector) -> Vector:
        return element.wrap(compute(a, b))

    name = f"vec_{operation}_{element.name}"
    vector = f"vec_{element.name}"
    doc = f"{operation}, lane by lane."
    return define(binary, name, f"vec_{operation}", f"{vector} {vector}", vector, element=element, doc=doc)


def _shift(operation: str, element: Element) -> Callable[[Vector, int], Vector]:
    mask = (1 << (8 * element.num_bytes)) - 1

    def shift(vector: Vector, count: int) -> Vector:
        bits = vector & mask
        return element.wrap(bits << count if operation == "shift_left" else bits >> count)

    name, vector = f"vec_{operation}_{element.name}", f"vec_{element.name}"
    doc = f"Every lane {operation} by `count` bits, which must be less than the lane has; zeros come in."
    return define(shift, name, f"vec_{operation}", f"{vector} i64", vector, element=element, doc=doc)


def _fma(element: Element) -> Callable[[Vector, Vector, Vector], Vector]:
    def fma(a: Vector, b: Vector, c: Vector) -> Vector:
        return fused_multiply_add(element, a, b, c)

    vector = f"vec_{element.name}"
    name, operands, doc = f"vec_fma_{element.name}", " ".join([vector] * 3), "a * b + c, rounded once."
    return define(fma, name, "vec_fma", operands, vector, element=element, doc=doc)


def _load_narrow(format_name: str, element: Element, widen: Callable[[Number], float], prefix: str):
    def load(base: int, index: int) -> float:
        return widen(machine.current.load(base + index * element.num_bytes, element, "plain"))

    name, result = f"{prefix}load_{format_name}_f32", f"{prefix}f32"
    doc = f"{format_name} from element `index` on, as f32."
    operation = f"{prefix}load_{format_name}"
    return define(load, name, operation, "i64 i64", result, element=element, ordering="plain", doc=doc)


def _store_narrow(format_name: str, narrow: Callable[[float], int], prefix: str):
    def store(base: int, index: int, value: float) -> None:
        machine.current.store(base + index * 2, U16, narrow(F32.wrap(value)), "plain")

    name, operands = f"{prefix}store_f32_{format_name}", f"i64 i64 {prefix}f32"
    doc = f"Write f32 as {format_name} from element `index` on, rounded to nearest even."
    operation = f"{prefix}store_{format_name}"
    return define(store, name, operation, operands, "void", element=U16, ordering="plain", doc=doc)


def _minimum(a: Number, b: Number) -> Number:
    return a if a < b else b


def _maximum(a: Number, b: Number) -> Number:
    return a if a > b else b


_add, _sub, _mul = operator.add, operator.sub, operator.mul

vec_lanes_f32, vec_lanes_f64, vec_lanes_i32, vec_lanes_i64 = map(_lanes, (F32, F64, I32, I64))
vec_load_f32, vec_load_f64, vec_load_i32, vec_load_i64 = map(_load, (F32, F64, I32, I64))
vec_store_f32, vec_stream_f32 = _store(F32, "plain"), _store(F32, "stream")
vec_store_f64, vec_stream_f64 = _store(F64, "plain"), _store(F64, "stream")
vec_store_i32, vec_stream_i32 = _store(I32, "plain"), _store(I32, "stream")
vec_store_i64, vec_stream_i64 = _store(I64, "plain"), _store(I64, "stream")
vec_zero_f32, vec_zero_f64, vec_zero_i32, vec_zero_i64 = map(_zero, (F32, F64, I32, I64))
vec_splat_f32, vec_splat_f64, vec_splat_i32, vec_splat_i64 = map(_splat, (F32, F64, I32, I64))
vec_sum_f32, vec_sum_f64, vec_sum_i32, vec_sum_i64 = map(_sum, (F32, F64, I32, I64))

vec_add_f32, vec_sub_f32, vec_mul_f32 = _binary("add", F32, _add), _binary("sub", F32, _sub), _binary("mul", F32, _mul)
vec_add_f64, vec_sub_f64, vec_mul_f64 = _binary("add", F64, _add), _binary("sub", F64, _sub), _binary("mul", F64, _mul)
vec_add_i32, vec_sub_i32, vec_mul_i32 = _binary("add", I32, _add), _binary("sub", I32, _sub), _binary("mul", I32, _mul)
vec_add_i64, vec_sub_i64, vec_mul_i64 = _binary("add", I64, _add), _binary("sub", I64, _sub), _binary("mul", I64, _mul)
vec_min_f32, vec_max_f32 = _binary("min", F32, _minimum), _binary("max", F32, _maximum)
vec_min_f64, vec_max_f64 = _binary("min", F64, _minimum), _binary("max", F64, _maximum)
vec_min_i32, vec_max_i32 = _binary("min", I32, _minimum), _binary("max", I32, _maximum)
vec_min_i64, vec_max_i64 = _binary("min", I64, _minimum), _binary("max", I64, _maximum)
vec_fma_f32, vec_fma_f64 = _fma(F32), _fma(F64)

vec_and_i32, vec_and_i64 = _binary("and", I32, operator.and_), _binary("and", I64, operator.and_)
vec_or_i32, vec_or_i64 = _binary("or", I32, operator.or_), _binary("or", I64, operator.or_)
vec_xor_i32, vec_xor_i64 = _binary("xor", I32, operator.xor), _binary("xor", I64, operator.xor)
vec_shift_left_i32, vec_shift_right_i32 = _shift("shift_left", I32), _shift("shift_right", I32)
vec_shift_left_i64, vec_shift_right_i64 = _shift("shift_left", I64), _shift("shift_right", I64)

load_f16_f32, store_f32_f16 = _load_narrow("f16", U16, f16_to_f32, ""), _store_narrow("f16", f32_to_f16, "")
load_bf16_f32, store_f32_bf16 = _load_narrow("bf16", U16, bf16_to_f32, ""), _store_narrow("bf16", f32_to_bf16, "")
load_i8_f32, load_u8_f32 = _load_narrow("i8", I8, float, ""), _load_narrow("u8", U8, float, "")
vec_load_f16_f32 = _load_narrow("f16", U16, f16_to_f32, "vec_")
vec_load_bf16_f32 = _load_narrow("bf16", U16, bf16_to_f32, "vec_")
vec_load_i8_f32, vec_load_u8_f32 = _load_narrow("i8", I8, float, "vec_"), _load_narrow("u8", U8, float, "vec_")
vec_store_f32_f16 = _store_narrow("f16", f32_to_f16, "vec_")
vec_store_f32_bf16 = _store_narrow("bf16", f32_to_bf16, "vec_")
