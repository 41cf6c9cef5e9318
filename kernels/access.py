"""Scalar accesses by address, as `Space` offers them: checked, then one instruction.

For each element there is one compiled kernel an operation. It answers (status, value):

| status | meaning |
|---|---|
| OK | done |
| MISALIGNED | the address is not a multiple of the element's size |
| OUT_OF_RANGE | no segment holds the address |
| NOT_MAPPED | the home's memory is not mapped here: the caller sends the operation to the home |

A load acquires, a store releases, read-modify-writes do both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import ops, status
from .compile import CORE, cpu_kernel, device_function
from .control import NO_HOME, PEER_MAPPED, home_rank
from .elements import ELEMENTS as SCALARS
from .ops import fence_seq_cst, load_i64
from .variants import ON_DEMAND

NAMES = {
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "uint16": "u16",
    "int32": "i32",
    "uint32": "u32",
    "int64": "i64",
    "uint64": "u64",
    "float32": "f32",
    "float64": "f64",
}
ATOMIC_NAMES = ("int32", "uint32", "int64", "uint64")
LOADED_BEFORE_START = ("int64", "float32", "float64")  # each kernel more makes every start 10 ms longer


@device_function
def check(control, address, num_bytes):
    """OK where an aligned access of `num_bytes` (a power of two) at `address` can be made by this rank."""
    if address & (num_bytes - 1):
        return status.MISALIGNED
    home = home_rank(control, address)
    if home == NO_HOME:
        return status.OUT_OF_RANGE
    if load_i64(control, PEER_MAPPED + home) == 0:
        return status.NOT_MAPPED
    return status.OK


@cpu_kernel("void()")
def fence():
    """Order every access of this rank before it against every one after it, stores before loads too."""
    fence_seq_cst()


@dataclass(frozen=True)
class Access:
    """The kernels of one element, and its bits as an unsigned word, for transports that carry words."""

    name: str
    num_bytes: int
    load: Any  # (control, address) -> (status, value)
    store: Any  # (control, address, value) -> status
    fetch_add: Any = None  # (control, address, value) -> (status, old); None where the element has no atomics
    exchange: Any = None  # as fetch_add
    compare_swap: Any = None  # (control, address, expected, desired) -> (status, old); or None

    def to_bits(self, value: Any) -> int:
        """`value` as the unsigned word of the same bytes; integers wrap around."""
        if isinstance(value, int) and SCALARS[NAMES[self.name]].kind != "f":
            return value & ((1 << 8 * self.num_bytes) - 1)
        scalar = SCALARS[NAMES[self.name]].ctype(value)
        return int.from_bytes(bytes(scalar), "little")

    def from_bits(self, bits: int) -> Any:
        """The value whose bytes are the low bytes of `bits`."""
        kind = SCALARS[NAMES[self.name]].kind
        if kind != "f":
            word = bits & ((1 << 8 * self.num_bytes) - 1)
            is_negative = kind == "i" and word >> (8 * self.num_bytes - 1)
            return word - (1 << 8 * self.num_bytes) if is_negative else word
        data = (bits & ((1 << 64) - 1)).to_bytes(8, "little")
        return SCALARS[NAMES[self.name]].ctype.from_buffer_copy(data).value


def _load_body(load: Callable[..., Any], num_bytes: int, zero: Any) -> Callable[[int, int], tuple[int, Any]]:
    def load_checked(control, address):
        code = check(control, address, num_bytes)
        if code != status.OK:
            return code, zero
        return code, load(address, 0)

    return load_checked


def _store_body(store: Callable[..., Any], num_bytes: int) -> Callable[[int, int, Any], int]:
    def store_checked(control, address, value):
        code = check(control, address, num_bytes)
        if code == status.OK:
            store(address, 0, value)
        return code

    return store_checked


def _update_body(update: Callable[..., Any], num_bytes: int, zero: Any) -> Callable[..., tuple[int, Any]]:
    def update_checked(control, address, value):
        code = check(control, address, num_bytes)
        if code != status.OK:
            return code, zero
        return code, update(address, 0, value)

    return update_checked


def _swap_body(swap: Callable[..., Any], num_bytes: int, zero: Any) -> Callable[..., tuple[int, Any]]:
    def compare_swap_checked(control, address, expected, desired):
        code = check(control, address, num_bytes)
        if code != status.OK:
            return code, zero
        return code, swap(address, 0, expected, desired)

    return compare_swap_checked


def _access(name: str) -> Access:
    element = NAMES[name]
    num_bytes = SCALARS[element].num_bytes
    zero = np.dtype(name).type(0)  # typed, so that both branches return the same type
    pair = f"Tuple((int64, {name}))"
    group = CORE if name in LOADED_BEFORE_START else ON_DEMAND
    load = cpu_kernel(f"{pair}(int64, int64)", group=group)(
        _load_body(getattr(ops, f"load_acquire_{element}"), num_bytes, zero)
    )
    store = cpu_kernel(f"int64(int64, int64, {name})", group=group)(
        _store_body(getattr(ops, f"store_release_{element}"), num_bytes)
    )
    updates = {}
    if name in ATOMIC_NAMES:
        for operation in ("fetch_add", "exchange"):
            body = _update_body(getattr(ops, f"{operation}_{element}"), num_bytes, zero)
            updates[operation] = cpu_kernel(f"{pair}(int64, int64, {name})", group=group)(body)
        body = _swap_body(getattr(ops, f"compare_swap_{element}"), num_bytes, zero)
        updates["compare_swap"] = cpu_kernel(f"{pair}(int64, int64, {name}, {name})", group=group)(body)
    return Access(name, num_bytes, load, store, **updates)


ACCESSES: dict[str, Access] = {name: _access(name) for name in NAMES}


def ready(name: str) -> Access:
    """The access of this name with its kernels compiled, so that a call costs no more than Numba's own."""
    lazy = ACCESSES[name]
    kernels = {
        operation: getattr(lazy, operation).compiled
        for operation in ("load", "store", "fetch_add", "exchange", "compare_swap")
        if getattr(lazy, operation) is not None
    }
    return replace(lazy, **kernels)
