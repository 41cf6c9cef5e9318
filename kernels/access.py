"""Scalar accesses by address, as `Space` offers them: checked, then one instruction.

For each element there is one compiled kernel an operation. It answers (status, value):

| status | meaning |
|---|---|
| OK | done |
| MISALIGNED | the address is not a multiple of the element's size |
| OUT_OF_RANGE | no segment holds the address |
| CACHED | ranks keep coherent copies of the memory, and this one has none that does: see coherent/typed.py |
| gate.pending | the home was asked, or is to be asked by another way: the caller has to finish it |
| NOT_MAPPED | the home's memory is not mapped here, and no agent can be asked |

A load acquires, a store releases, read-modify-writes do both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba.core import types

from . import status
from .build.compile import CORE, cpu_kernel, device_function
from .build.variants import ON_DEMAND
from .coherent.directory import block_value
from .coherent.hits import load_here_of, modify_here_of, note_of
from .intrinsics import scalar
from .intrinsics.elements import ELEMENTS as SCALARS
from .intrinsics.elements import bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16
from .intrinsics.scalar import fence_seq_cst, load_i64, store_i64
from .intrinsics.whole import exact, whole
from .page import gate as gates
from .page import operations
from .page.control import NO_HOME, place_of, reaches

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
COMPILED_AHEAD = ("int64", "float32", "float64")  # each kernel more makes the first start of all longer


@device_function
def check(gate, address, num_bytes):
    """OK where an aligned access of `num_bytes` (a power of two) at `address` can be made by this rank."""
    if address & (num_bytes - 1):
        return status.MISALIGNED
    control = load_i64(gate, gates.GATE_CONTROL)
    home, kind, _ = place_of(control, address)
    if home == NO_HOME:
        return status.OUT_OF_RANGE
    if not reaches(control, home, kind):
        return status.CACHED if is_noted(gate, address) else status.NOT_MAPPED
    if block_value(control, home, address) != 0:
        return status.CACHED
    return status.OK


@device_function
def is_noted(gate, address):
    """True where this rank has noted that the memory of an unmapped home is cached; else the home will say so."""
    cache = load_i64(gate, gates.GATE_CACHE)
    return cache != 0 and note_of(cache, address) != 0


@cpu_kernel("void()")
def fence():
    """Order every access of this rank before it against every one after it, stores before loads too."""
    fence_seq_cst()


@dataclass(frozen=True)
class Access:
    """The kernels of one element, and its bits as an unsigned word, for transports that carry words."""

    name: str
    num_bytes: int
    load: Any  # (gate, address) -> (status, value)
    store: Any  # (gate, address, value) -> status
    fetch_add: Any = None  # (gate, address, value) -> (status, old); None where the element has no atomics
    exchange: Any = None  # as fetch_add
    compare_swap: Any = None  # (gate, address, expected, desired) -> (status, old); or None

    @property
    def is_float(self) -> bool:
        """Whether values are floats; else they are integers."""
        return "float" in self.name

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest integer of an integer element."""
        bits = 8 * self.num_bytes
        return (0, (1 << bits) - 1) if self.name[0] == "u" else (-1 << bits - 1, (1 << bits - 1) - 1)

    def to_bits(self, value: Any) -> int:
        """The integer whose bits are those of `value` as this element."""
        number = float(value) if self.is_float else int(value)
        return int.from_bytes(bytes(SCALARS[NAMES[self.name]].ctype(number)), "little", signed=True)

    def from_bits(self, bits: int) -> Any:
        """The value whose bytes are the low bytes of `bits`."""
        kind = SCALARS[NAMES[self.name]].kind
        if kind != "f":
            word = bits & ((1 << 8 * self.num_bytes) - 1)
            is_negative = kind == "i" and word >> (8 * self.num_bytes - 1)
            return word - (1 << 8 * self.num_bytes) if is_negative else word
        data = (bits & ((1 << 64) - 1)).to_bytes(8, "little")
        return SCALARS[NAMES[self.name]].ctype.from_buffer_copy(data).value


@dataclass(frozen=True)
class _Element:
    """Intrinsics of an element, and its zero, which is typed so that all branches return the same type."""

    name: str
    num_bytes: int
    zero: Any

    def intrinsic(self, operation: str) -> Callable[..., Any]:
        return getattr(scalar, f"{operation}_{self.name}")

    def to_bits(self) -> Callable[[int, Any], int]:
        """int64(gate, value): the word of the same low bytes, by way of the gate."""
        store_value = self.intrinsic("store")

        def bits_of(gate, value):
            store_i64(gate, gates.GATE_DATA, 0)
            store_value(gate + gates.GATE_DATA * gates.WORD, 0, value)
            return load_i64(gate, gates.GATE_DATA)

        return device_function(bits_of)


def _load_body(element: _Element) -> Callable[[int, int], tuple[int, Any]]:
    num_bytes, zero = element.num_bytes, element.zero
    load, load_value = element.intrinsic("load_acquire"), element.intrinsic("load")
    load_here = load_here_of(element.name)

    def load_checked(gate, where):
        address = exact(where)
        code = check(gate, address, num_bytes)
        if code == status.OK:
            return code, load(address, 0)
        if code == status.CACHED and load_i64(gate, gates.GATE_CACHE) != 0:
            return load_here(load_i64(gate, gates.GATE_CACHE), address)
        value = zero
        if code == status.NOT_MAPPED:
            if not gates.enter(gate):
                return gates.pending(0), zero
            code = gates.ask_read(gate, address, gates.TO_VALUE, num_bytes)
            if code == status.OK:
                value = load_value(gate + gates.GATE_REPLY * gates.WORD, 0)
            gates.leave(gate)
        return code, value

    return load_checked


def _store_body(element: _Element) -> Callable[[int, int, Any], int]:
    num_bytes, bits_of = element.num_bytes, element.to_bits()
    store = element.intrinsic("store_release")
    store_here = modify_here_of(element.name, "store")

    def store_checked(gate, where, given):
        address, value = exact(where), exact(given)
        code = check(gate, address, num_bytes)
        if code == status.OK:
            store(address, 0, value)
        elif code == status.CACHED and load_i64(gate, gates.GATE_CACHE) != 0:
            code, _ = store_here(load_i64(gate, gates.GATE_CACHE), address, 0, value, value)
        elif code == status.NOT_MAPPED:
            if not gates.enter(gate):
                return gates.pending(0)
            bits_of(gate, value)
            code = gates.ask_write(gate, address, gate + gates.GATE_DATA * gates.WORD, num_bytes)
            gates.leave(gate)
        return code

    return store_checked


def _update_body(element: _Element, operation: str) -> Callable[..., tuple[int, Any]]:
    num_bytes, zero, bits_of = element.num_bytes, element.zero, element.to_bits()
    update, load_value = element.intrinsic(operation), element.intrinsic("load")
    update_here = modify_here_of(element.name, operation)
    number = {"fetch_add": operations.FETCH_ADD, "exchange": operations.EXCHANGE}[operation]

    def update_checked(gate, where, given):
        address, value = exact(where), exact(given)
        code = check(gate, address, num_bytes)
        if code == status.OK:
            return code, update(address, 0, value)
        if code == status.CACHED and load_i64(gate, gates.GATE_CACHE) != 0:
            return update_here(load_i64(gate, gates.GATE_CACHE), address, 0, value, value)
        old = zero
        if code == status.NOT_MAPPED:
            if not gates.enter(gate):
                return gates.pending(0), zero
            code = gates.ask_update(gate, number, address, bits_of(gate, value), num_bytes, 0)
            if code == status.OK:
                old = load_value(gate + gates.GATE_REPLY * gates.WORD, 0)
            gates.leave(gate)
        return code, old

    return update_checked


def _swap_body(element: _Element) -> Callable[..., tuple[int, Any]]:
    num_bytes, zero, bits_of = element.num_bytes, element.zero, element.to_bits()
    swap, load_value = element.intrinsic("compare_swap"), element.intrinsic("load")
    swap_here = modify_here_of(element.name, "compare_swap")

    def compare_swap_checked(gate, where, wanted, given):
        address, expected, desired = exact(where), exact(wanted), exact(given)
        code = check(gate, address, num_bytes)
        if code == status.OK:
            return code, swap(address, 0, expected, desired)
        if code == status.CACHED and load_i64(gate, gates.GATE_CACHE) != 0:
            return swap_here(load_i64(gate, gates.GATE_CACHE), address, 0, expected, desired)
        old = zero
        if code == status.NOT_MAPPED:
            if not gates.enter(gate):
                return gates.pending(0), zero
            bits = bits_of(gate, expected)
            code = gates.ask_update(
                gate, operations.COMPARE_SWAP, address, bits, bits_of(gate, desired), num_bytes
            )
            if code == status.OK:
                old = load_value(gate + gates.GATE_REPLY * gates.WORD, 0)
            gates.leave(gate)
        return code, old

    return compare_swap_checked


def _access(name: str) -> Access:
    num_bytes = SCALARS[NAMES[name]].num_bytes
    element = _Element(NAMES[name], num_bytes, np.dtype(name).type(0))
    number = getattr(types, name)
    given = whole(number) if isinstance(number, types.Integer) else number  # floats round
    gate, address, code = types.int64, whole(types.int64), types.int64
    answer = types.Tuple((code, number))  # type: ignore[attr-defined]
    group = CORE if name in COMPILED_AHEAD else ON_DEMAND
    load = cpu_kernel(answer(gate, address), group=group)(_load_body(element))
    store = cpu_kernel(code(gate, address, given), group=group)(_store_body(element))
    updates = {}
    if name in ATOMIC_NAMES:
        for operation in ("fetch_add", "exchange"):
            body = _update_body(element, operation)
            updates[operation] = cpu_kernel(answer(gate, address, given), group=group)(body)
        signature = answer(gate, address, given, given)
        updates["compare_swap"] = cpu_kernel(signature, group=group)(_swap_body(element))
    return Access(name, num_bytes, load, store, **updates)


@dataclass(frozen=True)
class _HalfAccess(Access):
    """Floats of 16 bits: accessed as words, converted in Python, rounded to nearest even."""

    widen: Callable[[int], float] = f16_to_f32
    narrow: Callable[[float], int] = f32_to_f16

    def to_bits(self, value: Any) -> int:
        return self.narrow(float(value))

    def from_bits(self, bits: int) -> Any:
        return self.widen(bits & 0xFFFF)


def _half_access(
    name: str, words: Access, widen: Callable[[int], float], narrow: Callable[[float], int]
) -> Access:
    load_word, store_word = words.load, words.store

    def load(gate: int, address: int) -> tuple[int, float]:
        code, bits = load_word(gate, address)
        return code, widen(bits)

    def store(gate: int, address: int, value: float) -> int:
        if not isinstance(value, float | int):
            raise TypeError(f"{value!r} is no float")
        return store_word(gate, address, narrow(float(value)))

    return _HalfAccess(name, words.num_bytes, load, store, widen=widen, narrow=narrow)


ACCESSES: dict[str, Access] = {name: _access(name) for name in NAMES}
HALVES = {"float16": (f16_to_f32, f32_to_f16), "bfloat16": (bf16_to_f32, f32_to_bf16)}
ALL_NAMES = (*NAMES, *HALVES)


def ready(name: str) -> Access:
    """The access of this name with its kernels compiled, so that a call costs no more than Numba's own."""
    if name in HALVES:
        return _half_access(name, ready("uint16"), *HALVES[name])
    lazy = ACCESSES[name]
    kernels = {
        operation: getattr(lazy, operation).compiled
        for operation in ("load", "store", "fetch_add", "exchange", "compare_swap")
        if getattr(lazy, operation) is not None
    }
    return replace(lazy, **kernels)
