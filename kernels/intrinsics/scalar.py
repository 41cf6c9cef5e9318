"""Scalar intrinsics: typed loads and stores, atomics, fences.

All take `base`, a byte address (int64), and `index`, which counts elements. T is one of the element names.

| intrinsic | T | ordering |
|---|---|---|
| load_T(base, index) -> T; store_T(base, index, value) | all | plain: must not race; loops vectorise |
| load_relaxed_T, load_acquire_T; store_relaxed_T, store_release_T | all | as named |
| fetch_add_T(base, index, value) -> old | 32, 64 bits | acquire and release |
| exchange_T, fetch_or_T, fetch_and_T (base, index, value) -> old | integers of 32, 64 bits | the same |
| fetch_add_relaxed_T | integers of 32, 64 bits | relaxed: counters |
| compare_swap_T(base, index, expected, desired) -> old | the same | acquire and release; failed: acquire |
| fence_acquire(), fence_release(), fence_seq_cst() | | as named |
| fence_after_atomic() | | fence_seq_cst for the place behind an atomic update, where x86 needs none |

Ordered accesses need natural alignment; plain ones need it on CUDA only. Every ordering holds between all
processors of the machine (CUDA: `.sys` scope). A name that ends in `_cta` or `_gpu` (i32 and i64, and the
fences) orders among the threads of a block, or of a GPU, only: there it is cheaper; elsewhere it is the one
without. Values wrap around to T. In compiled code mixing a u64 with a signed integer gives a float64 (NumPy's
rule in Numba): keep arithmetic in one signedness.
"""

from __future__ import annotations

from collections.abc import Callable

from . import machine
from .elements import F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Element, Number
from .table import Ordering, Scope, define, names

Load = Callable[[int, int], Number]
Store = Callable[[int, int, Number], None]
Update = Callable[[int, int, Number], Number]
Swap = Callable[[int, int, Number, Number], Number]


def _named(name: str, scope: Scope) -> str:
    return name if scope == "sys" else f"{name}_{scope}"


def _load(element: Element, ordering: Ordering = "plain", scope: Scope = "sys") -> Load:
    num_bytes = element.num_bytes

    def load(base: int, index: int) -> Number:
        return machine.current.load(base + index * num_bytes, element, ordering)

    name = f"load_{element.name}" if ordering == "plain" else f"load_{ordering}_{element.name}"
    doc = f"The {element.name} at base + index * {num_bytes}; ordering: {ordering}."
    return define(
        load,
        _named(name, scope),
        "load",
        "i64 i64",
        element.name,
        element=element,
        ordering=ordering,
        scope=scope,
        doc=doc,
    )


def _store(element: Element, ordering: Ordering = "plain", scope: Scope = "sys") -> Store:
    num_bytes = element.num_bytes

    def store(base: int, index: int, value: Number) -> None:
        machine.current.store(base + index * num_bytes, element, element.wrap(value), ordering)

    name = f"store_{element.name}" if ordering == "plain" else f"store_{ordering}_{element.name}"
    doc = f"Write `value` as {element.name} to base + index * {num_bytes}; ordering: {ordering}."
    operands = f"i64 i64 {element.name}"
    return define(
        store,
        _named(name, scope),
        "store",
        operands,
        "void",
        element=element,
        ordering=ordering,
        scope=scope,
        doc=doc,
    )


def _update(operation: str, element: Element, ordering: Ordering = "acq_rel", scope: Scope = "sys") -> Update:
    num_bytes = element.num_bytes

    def update(base: int, index: int, value: Number) -> Number:
        operands = (element.wrap(value),)
        return machine.current.rmw(operation, base + index * num_bytes, element, operands, ordering)

    variant = "" if ordering == "acq_rel" else f"_{ordering}"
    name = f"{operation}{variant}_{element.name}"
    doc = f"One atomic {operation} on the {element.name} at base + index * {num_bytes}; the old value."
    operands = f"i64 i64 {element.name}"
    return define(
        update,
        _named(name, scope),
        operation,
        operands,
        element.name,
        element=element,
        ordering=ordering,
        scope=scope,
        doc=doc,
    )


def _compare_swap(element: Element, scope: Scope = "sys") -> Swap:
    num_bytes = element.num_bytes

    def compare_swap(base: int, index: int, expected: Number, desired: Number) -> Number:
        operands = (element.wrap(expected), element.wrap(desired))
        address = base + index * num_bytes
        return machine.current.rmw("compare_swap", address, element, operands, "acq_rel")

    doc = f"Write `desired` where the {element.name} is `expected`, in one atomic step; the old value."
    return define(
        compare_swap,
        _named(f"compare_swap_{element.name}", scope),
        "compare_swap",
        f"i64 i64 {element.name} {element.name}",
        element.name,
        element=element,
        ordering="acq_rel",
        scope=scope,
        doc=doc,
    )


def _fence(ordering: Ordering, scope: Scope = "sys") -> Callable[[], None]:
    def fence() -> None:
        machine.current.fence(ordering)

    doc = f"Memory fence: {ordering}."
    name = _named(f"fence_{ordering}", scope)
    return define(fence, name, "fence", "", "void", ordering=ordering, scope=scope, doc=doc)


load_i8, store_i8 = _load(I8), _store(I8)
load_u8, store_u8 = _load(U8), _store(U8)
load_i16, store_i16 = _load(I16), _store(I16)
load_u16, store_u16 = _load(U16), _store(U16)
load_i32, store_i32 = _load(I32), _store(I32)
load_u32, store_u32 = _load(U32), _store(U32)
load_i64, store_i64 = _load(I64), _store(I64)
load_u64, store_u64 = _load(U64), _store(U64)
load_f32, store_f32 = _load(F32), _store(F32)
load_f64, store_f64 = _load(F64), _store(F64)

load_relaxed_i8, store_relaxed_i8 = _load(I8, "relaxed"), _store(I8, "relaxed")
load_relaxed_u8, store_relaxed_u8 = _load(U8, "relaxed"), _store(U8, "relaxed")
load_relaxed_i16, store_relaxed_i16 = _load(I16, "relaxed"), _store(I16, "relaxed")
load_relaxed_u16, store_relaxed_u16 = _load(U16, "relaxed"), _store(U16, "relaxed")
load_relaxed_i32, store_relaxed_i32 = _load(I32, "relaxed"), _store(I32, "relaxed")
load_relaxed_u32, store_relaxed_u32 = _load(U32, "relaxed"), _store(U32, "relaxed")
load_relaxed_i64, store_relaxed_i64 = _load(I64, "relaxed"), _store(I64, "relaxed")
load_relaxed_u64, store_relaxed_u64 = _load(U64, "relaxed"), _store(U64, "relaxed")
load_relaxed_f32, store_relaxed_f32 = _load(F32, "relaxed"), _store(F32, "relaxed")
load_relaxed_f64, store_relaxed_f64 = _load(F64, "relaxed"), _store(F64, "relaxed")

load_acquire_i8, store_release_i8 = _load(I8, "acquire"), _store(I8, "release")
load_acquire_u8, store_release_u8 = _load(U8, "acquire"), _store(U8, "release")
load_acquire_i16, store_release_i16 = _load(I16, "acquire"), _store(I16, "release")
load_acquire_u16, store_release_u16 = _load(U16, "acquire"), _store(U16, "release")
load_acquire_i32, store_release_i32 = _load(I32, "acquire"), _store(I32, "release")
load_acquire_u32, store_release_u32 = _load(U32, "acquire"), _store(U32, "release")
load_acquire_i64, store_release_i64 = _load(I64, "acquire"), _store(I64, "release")
load_acquire_u64, store_release_u64 = _load(U64, "acquire"), _store(U64, "release")
load_acquire_f32, store_release_f32 = _load(F32, "acquire"), _store(F32, "release")
load_acquire_f64, store_release_f64 = _load(F64, "acquire"), _store(F64, "release")

fetch_add_i32, fetch_add_relaxed_i32 = _update("fetch_add", I32), _update("fetch_add", I32, "relaxed")
fetch_add_u32, fetch_add_relaxed_u32 = _update("fetch_add", U32), _update("fetch_add", U32, "relaxed")
fetch_add_i64, fetch_add_relaxed_i64 = _update("fetch_add", I64), _update("fetch_add", I64, "relaxed")
fetch_add_u64, fetch_add_relaxed_u64 = _update("fetch_add", U64), _update("fetch_add", U64, "relaxed")
fetch_add_f32, fetch_add_f64 = _update("fetch_add", F32), _update("fetch_add", F64)
fetch_or_i32, fetch_and_i32 = _update("fetch_or", I32), _update("fetch_and", I32)
fetch_or_u32, fetch_and_u32 = _update("fetch_or", U32), _update("fetch_and", U32)
fetch_or_i64, fetch_and_i64 = _update("fetch_or", I64), _update("fetch_and", I64)
fetch_or_u64, fetch_and_u64 = _update("fetch_or", U64), _update("fetch_and", U64)

exchange_i32, compare_swap_i32 = _update("exchange", I32), _compare_swap(I32)
exchange_u32, compare_swap_u32 = _update("exchange", U32), _compare_swap(U32)
exchange_i64, compare_swap_i64 = _update("exchange", I64), _compare_swap(I64)
exchange_u64, compare_swap_u64 = _update("exchange", U64), _compare_swap(U64)

fence_acquire, fence_release, fence_seq_cst = _fence("acquire"), _fence("release"), _fence("seq_cst")


load_relaxed_i32_cta = _load(I32, "relaxed", "cta")
load_relaxed_i32_gpu = _load(I32, "relaxed", "gpu")
load_acquire_i32_cta = _load(I32, "acquire", "cta")
load_acquire_i32_gpu = _load(I32, "acquire", "gpu")
store_relaxed_i32_cta = _store(I32, "relaxed", "cta")
store_relaxed_i32_gpu = _store(I32, "relaxed", "gpu")
store_release_i32_cta = _store(I32, "release", "cta")
store_release_i32_gpu = _store(I32, "release", "gpu")
fetch_add_i32_cta = _update("fetch_add", I32, scope="cta")
fetch_add_i32_gpu = _update("fetch_add", I32, scope="gpu")
fetch_or_i32_cta = _update("fetch_or", I32, scope="cta")
fetch_or_i32_gpu = _update("fetch_or", I32, scope="gpu")
fetch_and_i32_cta = _update("fetch_and", I32, scope="cta")
fetch_and_i32_gpu = _update("fetch_and", I32, scope="gpu")
exchange_i32_cta = _update("exchange", I32, scope="cta")
exchange_i32_gpu = _update("exchange", I32, scope="gpu")
compare_swap_i32_cta = _compare_swap(I32, "cta")
compare_swap_i32_gpu = _compare_swap(I32, "gpu")

load_relaxed_i64_cta = _load(I64, "relaxed", "cta")
load_relaxed_i64_gpu = _load(I64, "relaxed", "gpu")
load_acquire_i64_cta = _load(I64, "acquire", "cta")
load_acquire_i64_gpu = _load(I64, "acquire", "gpu")
store_relaxed_i64_cta = _store(I64, "relaxed", "cta")
store_relaxed_i64_gpu = _store(I64, "relaxed", "gpu")
store_release_i64_cta = _store(I64, "release", "cta")
store_release_i64_gpu = _store(I64, "release", "gpu")
fetch_add_i64_cta = _update("fetch_add", I64, scope="cta")
fetch_add_i64_gpu = _update("fetch_add", I64, scope="gpu")
fetch_or_i64_cta = _update("fetch_or", I64, scope="cta")
fetch_or_i64_gpu = _update("fetch_or", I64, scope="gpu")
fetch_and_i64_cta = _update("fetch_and", I64, scope="cta")
fetch_and_i64_gpu = _update("fetch_and", I64, scope="gpu")
exchange_i64_cta = _update("exchange", I64, scope="cta")
exchange_i64_gpu = _update("exchange", I64, scope="gpu")
compare_swap_i64_cta = _compare_swap(I64, "cta")
compare_swap_i64_gpu = _compare_swap(I64, "gpu")

fence_acquire_cta = _fence("acquire", "cta")
fence_release_cta = _fence("release", "cta")
fence_seq_cst_cta = _fence("seq_cst", "cta")
fence_acquire_gpu = _fence("acquire", "gpu")
fence_release_gpu = _fence("release", "gpu")
fence_seq_cst_gpu = _fence("seq_cst", "gpu")


def _fence_after_atomic() -> None:
    """fence_seq_cst directly behind an atomic update of this lane; no instruction on x86, whose update is one."""
    machine.current.fence("seq_cst")


fence_after_atomic = define(
    _fence_after_atomic, "fence_after_atomic", "fence_after_atomic", "", "void", ordering="seq_cst"
)

__all__ = names(__name__)  # noqa: PLE0605 - a list, made from the table
