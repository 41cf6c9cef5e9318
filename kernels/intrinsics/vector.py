"""Vector intrinsics: as many lanes as the target's registers hold, the same source everywhere.

T in f32, f64, i32, i64; on the CPU i8, u8 and i16 have what a reduction takes: lanes, load, store, zero, add, mul,
min, max.
vec_lanes_T() is the width: a CPU register (16 x f32 with AVX-512, 8 with AVX2, else 4), 16 bytes on CUDA, 1 in plain
Python, where a vector is simply a number. A kernel steps by it and
finishes with scalars. Accesses are plain where not named otherwise; CUDA needs 16 B alignment, the CPU none
(relaxed ones: that of a lane).

| intrinsic | effect |
|---|---|
| vec_load_T(base, index), vec_store_T(base, index, v) | the lanes from element `index` on |
| vec_load_relaxed_i64, vec_store_relaxed_i64 | the same, each lane one relaxed access, in no order among them |
| vec_stream_T(base, index, v) | store around the caches, see below |
| vec_zero_T(), vec_splat_T(value) | all lanes equal |
| vec_indices_i64() | 0, 1, 2, ... |
| vec_add_T, vec_sub_T, vec_mul_T (a, b) | lane by lane |
| vec_min_T, vec_max_T (a, b) | a if a < b else b; a if a > b else b |
| vec_div_T(a, b) | floats |
| vec_fma_T(a, b, c) | a * b + c rounded once; floats |
| vec_and_T, vec_or_T, vec_xor_T (a, b) | integers |
| vec_shift_left_T, vec_shift_right_T (a, count) | integers; zeros come in; 0 <= count < bits |
| vec_equal_i64(a, b) -> i64 | bit k is 1 where lane k of both is the same |
| vec_sum_T(v) -> T | sum of the lanes, in no particular order |
| vec_load_H_f32(base, index) | f32 lanes from H in memory: f16, bf16, i8, u8 |
| vec_store_f32_H(base, index, v) | f32 lanes to f16 or bf16, rounded to nearest even |
| load_H_f32(base, index), store_f32_H(base, index, value) | the same for one element, for tails |

vec_stream_T needs base + index * size to be a multiple of 64 B: elsewhere the processor faults, so kernels
write scalars up to the first such address. Later stores may overtake it, releases too: stream_fence()
stands between it and what publishes the data. It pays for more than about 2 MiB; below, it loses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from . import machine
from .elements import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    Element,
    Number,
    bf16_to_f32,
    divide,
    f16_to_f32,
    f32_to_bf16,
    f32_to_f16,
    fused_multiply_add,
)
from .table import CPU_AND_CUDA, CPU_ONLY, Ordering, define, names

Vector = Number  # one lane in plain Python
Load = Callable[[int, int], Vector]
Store = Callable[[int, int, Vector], None]
Binary = Callable[[Vector, Vector], Vector]


STORE_NAMES: dict[Ordering, str] = {"plain": "store", "relaxed": "store_relaxed", "stream": "stream"}


def _targets(element: Element) -> tuple[str, ...]:
    return CPU_ONLY if element.num_bytes < 4 else CPU_AND_CUDA


def _lanes(element: Element) -> Callable[[], int]:
    def lanes() -> int:
        return 1

    doc = f"Number of {element.name} in a vector on this target."
    return define(
        lanes,
        f"vec_lanes_{element.name}",
        "vec_lanes",
        "",
        "i64",
        element=element,
        doc=doc,
        targets=_targets(element),
    )


def _load(element: Element, ordering: Ordering = "plain") -> Load:
    def load(base: int, index: int) -> Vector:
        return machine.current.load(base + index * element.num_bytes, element, ordering)

    name = f"vec_load_{'' if ordering == 'plain' else ordering + '_'}{element.name}"
    doc = f"The {element.name} from element `index` on; ordering: {ordering}."
    result = f"vec_{element.name}"
    about: dict[str, Any] = {
        "element": element,
        "ordering": ordering,
        "doc": doc,
        "targets": _targets(element),
    }
    return define(load, name, "vec_load", "i64 i64", result, **about)


def _store(element: Element, ordering: Ordering) -> Store:
    def store(base: int, index: int, vector: Vector) -> None:
        machine.current.store(base + index * element.num_bytes, element, vector, ordering)

    name = f"vec_{STORE_NAMES[ordering]}_{element.name}"
    doc = f"Write all lanes from element `index` on; ordering: {ordering}."
    operands = f"i64 i64 vec_{element.name}"
    about: dict[str, Any] = {
        "element": element,
        "ordering": ordering,
        "doc": doc,
        "targets": _targets(element),
    }
    return define(store, name, "vec_store", operands, "void", **about)


def _zero(element: Element) -> Callable[[], Vector]:
    def zero() -> Vector:
        return element.wrap(0)

    result = f"vec_{element.name}"
    about: dict[str, Any] = {"element": element, "doc": "All lanes 0.", "targets": _targets(element)}
    return define(zero, f"vec_zero_{element.name}", "vec_zero", "", result, **about)


def _splat(element: Element) -> Callable[[Number], Vector]:
    def splat(value: Number) -> Vector:
        return element.wrap(value)

    name, doc = f"vec_splat_{element.name}", "All lanes `value`."
    return define(splat, name, "vec_splat", element.name, f"vec_{element.name}", element=element, doc=doc)


def _indices(element: Element) -> Callable[[], Vector]:
    def indices() -> Vector:
        return 0

    name, result = f"vec_indices_{element.name}", f"vec_{element.name}"
    return define(indices, name, "vec_indices", "", result, element=element, doc="Lane k is k.")


def _equal(element: Element) -> Callable[[Vector, Vector], int]:
    def equal(a: Vector, b: Vector) -> int:
        return 1 if a == b else 0

    name, vector = f"vec_equal_{element.name}", f"vec_{element.name}"
    doc = "Bit k is 1 where lane k of both is the same."
    return define(equal, name, "vec_equal", f"{vector} {vector}", "i64", element=element, doc=doc)


def _sum(element: Element) -> Callable[[Vector], Number]:
    def total(vector: Vector) -> Number:
        return vector

    name, doc = f"vec_sum_{element.name}", "Sum of the lanes, in no particular order."
    return define(total, name, "vec_sum", f"vec_{element.name}", element.name, element=element, doc=doc)


def _binaries(
    operation: str, compute: Callable[[Number, Number], Number], elements: tuple[Element, ...]
) -> list[Binary]:
    return [_binary(operation, compute, element) for element in elements]


def _binary(operation: str, compute: Callable[[Number, Number], Number], element: Element) -> Binary:
    def binary(a: Vector, b: Vector) -> Vector:
        return element.wrap(compute(a, b))

    name = f"vec_{operation}_{element.name}"
    vector = f"vec_{element.name}"
    about: dict[str, Any] = {
        "element": element,
        "doc": f"{operation}, lane by lane.",
        "targets": _targets(element),
    }
    return define(binary, name, f"vec_{operation}", f"{vector} {vector}", vector, **about)


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


def _load_narrow(format_name: str, element: Element, widen: Callable[[Number], float]) -> list[Load]:
    """Scalar and vector form: in plain Python the same function twice."""

    def make(prefix: str) -> Load:
        def load(base: int, index: int) -> float:
            return widen(machine.current.load(base + index * element.num_bytes, element, "plain"))

        name, result = f"{prefix}load_{format_name}_f32", f"{prefix}f32"
        operation, doc = f"{prefix}load_{format_name}", f"{format_name} from element `index` on, as f32."
        return define(load, name, operation, "i64 i64", result, element=element, ordering="plain", doc=doc)

    return [make(""), make("vec_")]


def _store_narrow(format_name: str, narrow: Callable[[float], int]) -> list[Store]:
    def make(prefix: str) -> Store:
        def store(base: int, index: int, value: float) -> None:
            machine.current.store(base + index * 2, U16, narrow(F32.wrap(value)), "plain")

        name, operands = f"{prefix}store_f32_{format_name}", f"i64 i64 {prefix}f32"
        operation, doc = f"{prefix}store_{format_name}", f"f32 to {format_name}, rounded to nearest even."
        return define(store, name, operation, operands, "void", element=U16, ordering="plain", doc=doc)

    return [make(""), make("vec_")]


def _minimum(a: Number, b: Number) -> Number:
    return a if a < b else b


def _maximum(a: Number, b: Number) -> Number:
    return a if a > b else b


_FLOATS, _INTEGERS, _SHORT = (F32, F64), (I32, I64), (I8, U8, I16)
_ALL = _FLOATS + _INTEGERS

vec_lanes_f32, vec_lanes_f64, vec_lanes_i32, vec_lanes_i64 = map(_lanes, _ALL)
vec_load_f32, vec_load_f64, vec_load_i32, vec_load_i64 = map(_load, _ALL)
vec_store_f32, vec_store_f64, vec_store_i32, vec_store_i64 = (_store(e, "plain") for e in _ALL)
vec_stream_f32, vec_stream_f64, vec_stream_i32, vec_stream_i64 = (_store(e, "stream") for e in _ALL)
vec_load_relaxed_i64, vec_store_relaxed_i64 = _load(I64, "relaxed"), _store(I64, "relaxed")
vec_indices_i64, vec_equal_i64 = _indices(I64), _equal(I64)
vec_zero_f32, vec_zero_f64, vec_zero_i32, vec_zero_i64 = map(_zero, _ALL)
vec_splat_f32, vec_splat_f64, vec_splat_i32, vec_splat_i64 = map(_splat, _ALL)
vec_sum_f32, vec_sum_f64, vec_sum_i32, vec_sum_i64 = map(_sum, _ALL)

vec_add_f32, vec_add_f64, vec_add_i32, vec_add_i64 = _binaries("add", operator.add, _ALL)
vec_sub_f32, vec_sub_f64, vec_sub_i32, vec_sub_i64 = _binaries("sub", operator.sub, _ALL)
vec_mul_f32, vec_mul_f64, vec_mul_i32, vec_mul_i64 = _binaries("mul", operator.mul, _ALL)
vec_min_f32, vec_min_f64, vec_min_i32, vec_min_i64 = _binaries("min", _minimum, _ALL)
vec_max_f32, vec_max_f64, vec_max_i32, vec_max_i64 = _binaries("max", _maximum, _ALL)
vec_div_f32, vec_div_f64 = _binaries("div", divide, _FLOATS)
vec_fma_f32, vec_fma_f64 = map(_fma, _FLOATS)

vec_lanes_i8, vec_lanes_u8, vec_lanes_i16 = map(_lanes, _SHORT)
vec_load_i8, vec_load_u8, vec_load_i16 = map(_load, _SHORT)
vec_store_i8, vec_store_u8, vec_store_i16 = (_store(e, "plain") for e in _SHORT)
vec_zero_i8, vec_zero_u8, vec_zero_i16 = map(_zero, _SHORT)
vec_add_i8, vec_add_u8, vec_add_i16 = _binaries("add", operator.add, _SHORT)
vec_mul_i8, vec_mul_u8, vec_mul_i16 = _binaries("mul", operator.mul, _SHORT)
vec_min_i8, vec_min_u8, vec_min_i16 = _binaries("min", _minimum, _SHORT)
vec_max_i8, vec_max_u8, vec_max_i16 = _binaries("max", _maximum, _SHORT)

vec_and_i32, vec_and_i64 = _binaries("and", operator.and_, _INTEGERS)
vec_or_i32, vec_or_i64 = _binaries("or", operator.or_, _INTEGERS)
vec_xor_i32, vec_xor_i64 = _binaries("xor", operator.xor, _INTEGERS)
vec_shift_left_i32, vec_shift_left_i64 = (_shift("shift_left", e) for e in _INTEGERS)
vec_shift_right_i32, vec_shift_right_i64 = (_shift("shift_right", e) for e in _INTEGERS)

load_f16_f32, vec_load_f16_f32 = _load_narrow("f16", U16, f16_to_f32)
load_bf16_f32, vec_load_bf16_f32 = _load_narrow("bf16", U16, bf16_to_f32)
load_i8_f32, vec_load_i8_f32 = _load_narrow("i8", I8, float)
load_u8_f32, vec_load_u8_f32 = _load_narrow("u8", U8, float)
store_f32_f16, vec_store_f32_f16 = _store_narrow("f16", f32_to_f16)
store_f32_bf16, vec_store_f32_bf16 = _store_narrow("bf16", f32_to_bf16)

__all__ = names(__name__)  # noqa: PLE0605 - a list, made from the table
