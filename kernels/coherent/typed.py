"""Coherent access by address: load, store, fetch_add, exchange, compare_swap of 1 to 8 bytes, in every world.

    coherent_load_T(cache, address) -> (code, value)
    coherent_store_T(cache, address, value) -> code
    coherent_fetch_add_T, coherent_exchange_T (cache, address, value) -> (code, what stood there)
    coherent_compare_swap_T(cache, address, expected, desired) -> (code, what stood there)

`cache` is the address of the rank's coherence header (`space.cache.address`). What happens is up to the memory:
a copy in the rank's own cache (`back`, `through`, `private`), the home itself (`none`), by loads and stores or by
messages. Every address is sequentially consistent by itself; loads acquire, stores release, the others do both.

| code | meaning |
|---|---|
| OK | done |
| MISALIGNED, OUT_OF_RANGE | the address is not a multiple of the size; no segment has it |
| POISONED | the only whole copy of the line was lost with a dead rank |
| AGAIN, PENDING, INTERRUPTED | nothing was done yet: hand the code to `space.cache.settle` and call again |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..build.variants import bind, family
from ..intrinsics import scalar
from ..intrinsics.elements import ELEMENTS
from ..page import operations
from . import element as access
from . import hits
from .hits import names_of

Function = Callable[..., Any]
CHANGE_OPERATIONS = {
    "store": operations.WRITE,
    "fetch_add": operations.FETCH_ADD,
    "exchange": operations.EXCHANGE,
    "compare_swap": operations.COMPARE_SWAP,
}


def _load(element: str) -> Function:
    """coherent_load_T."""
    templates = (hits.load_hit, access.load_uncached, access.load_slowly, access.coherent_load)
    return _public(family(templates, element, **names_of(element)).coherent_load)


def _change(element: str, verb: str) -> Function:
    """coherent_store_T, coherent_fetch_add_T, coherent_exchange_T or coherent_compare_swap_T."""
    is_float_sum = verb == "fetch_add" and ELEMENTS[element].kind == "f"
    names = {
        **hits.names_of_change(element, verb),
        "OPERATION": operations.FETCH_ADD_FLOAT if is_float_sum else CHANGE_OPERATIONS[verb],
    }
    suffix = f"{verb}_{element}"
    names["modify_raw"] = _raw(element, verb, names)
    templates = (hits.modify_hit, access.modify_there, access.modify_slowly, access.coherent_modify)
    modify = family(templates, suffix, **names).coherent_modify
    last: dict[str, Function] = {"store": access.coherent_store, "compare_swap": access.coherent_compare_swap}
    made = bind(last.get(verb, access.coherent_update), suffix, {**names, "coherent_modify": modify})
    made.__name__ = made.__qualname__ = f"coherent_{suffix}"
    return _public(made)


def _public(function: Function) -> Function:
    """Let pickles of users' kernels refer to it by where it is found."""
    function.__module__ = __name__
    return function


def _raw(element: str, verb: str, names: dict[str, Any]) -> Function:
    """The same for memory that is not cached."""
    row, suffix = ELEMENTS[element], f"{verb}_{element}"
    if verb == "store":
        return bind(access.store_raw, suffix, names)
    if row.num_bytes < 4:
        sign = 1 << (8 * row.num_bytes - 1) if row.kind == "i" else 0
        return bind(access.narrow_raw, suffix, {**names, "SIGN": sign})
    update = getattr(scalar, suffix)
    if verb == "compare_swap":
        return bind(access.compare_swap_raw, suffix, {"compare_swap_value": update})
    return bind(access.update_raw, suffix, {"update_value": update})


def raw_change(element: str) -> Function:
    """(address, operation, first, second) -> what stood there, in one atomic step; for integer elements."""
    names, suffix = names_of(element), f"any_{element}"
    if names["NUM_BYTES"] < 4:
        names["SIGN"] = 1 << (8 * names["NUM_BYTES"] - 1)
        return bind(access.narrow_raw, suffix, names)
    for verb, name in (("fetch_add", "update"), ("exchange", "exchange"), ("compare_swap", "compare_swap")):
        names[f"{name}_value"] = getattr(scalar, f"{verb}_{element}")
    return bind(access.raw_any, suffix, names)


def any_change(element: str) -> Function:
    """(cache, address, operation, first, second) -> (code, what stood there), for integer elements."""
    names, suffix = names_of(element), f"any_{element}"
    names["modify"] = bind(hits.modify_any, suffix, names)
    names["modify_raw"] = raw_change(element)
    templates = (hits.modify_hit, access.modify_there, access.modify_slowly, access.coherent_modify)
    made: Function = family(templates, suffix, **names).coherent_modify
    return made


coherent_load_i8, coherent_store_i8 = _load("i8"), _change("i8", "store")
coherent_load_u8, coherent_store_u8 = _load("u8"), _change("u8", "store")
coherent_load_i16, coherent_store_i16 = _load("i16"), _change("i16", "store")
coherent_load_u16, coherent_store_u16 = _load("u16"), _change("u16", "store")
coherent_load_i32, coherent_store_i32 = _load("i32"), _change("i32", "store")
coherent_load_u32, coherent_store_u32 = _load("u32"), _change("u32", "store")
coherent_load_i64, coherent_store_i64 = _load("i64"), _change("i64", "store")
coherent_load_u64, coherent_store_u64 = _load("u64"), _change("u64", "store")
coherent_load_f32, coherent_store_f32 = _load("f32"), _change("f32", "store")
coherent_load_f64, coherent_store_f64 = _load("f64"), _change("f64", "store")

coherent_fetch_add_i8, coherent_fetch_add_u8 = _change("i8", "fetch_add"), _change("u8", "fetch_add")
coherent_fetch_add_i16, coherent_fetch_add_u16 = _change("i16", "fetch_add"), _change("u16", "fetch_add")
coherent_fetch_add_i32, coherent_fetch_add_u32 = _change("i32", "fetch_add"), _change("u32", "fetch_add")
coherent_fetch_add_i64, coherent_fetch_add_u64 = _change("i64", "fetch_add"), _change("u64", "fetch_add")
coherent_fetch_add_f32, coherent_fetch_add_f64 = _change("f32", "fetch_add"), _change("f64", "fetch_add")

coherent_exchange_i8, coherent_exchange_u8 = _change("i8", "exchange"), _change("u8", "exchange")
coherent_exchange_i16, coherent_exchange_u16 = _change("i16", "exchange"), _change("u16", "exchange")
coherent_exchange_i32, coherent_exchange_u32 = _change("i32", "exchange"), _change("u32", "exchange")
coherent_exchange_i64, coherent_exchange_u64 = _change("i64", "exchange"), _change("u64", "exchange")

coherent_compare_swap_i8, coherent_compare_swap_u8 = (
    _change("i8", "compare_swap"),
    _change("u8", "compare_swap"),
)
coherent_compare_swap_i16 = _change("i16", "compare_swap")
coherent_compare_swap_u16 = _change("u16", "compare_swap")
coherent_compare_swap_i32 = _change("i32", "compare_swap")
coherent_compare_swap_u32 = _change("u32", "compare_swap")
coherent_compare_swap_i64 = _change("i64", "compare_swap")
coherent_compare_swap_u64 = _change("u64", "compare_swap")
