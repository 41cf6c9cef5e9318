"""The scalar types that kernels load and store, and their arithmetic in plain Python.

An element knows its width and how a Python number is brought into its range: integers wrap around
(two's complement), floats round to nearest even. Compiled code does the same in hardware, so a kernel
that runs as plain Python leaves the same bytes in memory.
"""

from __future__ import annotations

import ctypes
import math
import operator
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Number = Any  # int for integer elements, float for float elements


@dataclass(frozen=True)
class Element:
    """One scalar type: `name` as in the intrinsics (i64, f32), `kind` signed, unsigned or float."""

    name: str
    kind: Literal["i", "u", "f"]
    num_bytes: int

    def wrap(self, value: Number) -> Number:
        """`value` as this type holds it: integers modulo 2**bits, floats rounded; TypeError for a float
        where an integer belongs."""
        if self.kind == "f":
            return float(value) if self.num_bytes == 8 else ctypes.c_float(value).value
        bits = 8 * self.num_bytes
        wrapped = operator.index(value) & ((1 << bits) - 1)
        if self.kind == "i" and wrapped >> (bits - 1):
            wrapped -= 1 << bits
        return wrapped

    @property
    def ctype(self) -> Any:
        """The ctypes type of the same layout."""
        return _CTYPES[self.name]


_CTYPES: dict[str, Any] = {
    "i8": ctypes.c_int8,
    "u8": ctypes.c_uint8,
    "i16": ctypes.c_int16,
    "u16": ctypes.c_uint16,
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}

I8 = Element("i8", "i", 1)
U8 = Element("u8", "u", 1)
I16 = Element("i16", "i", 2)
U16 = Element("u16", "u", 2)
I32 = Element("i32", "i", 4)
U32 = Element("u32", "u", 4)
I64 = Element("i64", "i", 8)
U64 = Element("u64", "u", 8)
F32 = Element("f32", "f", 4)
F64 = Element("f64", "f", 8)

ELEMENTS = {e.name: e for e in (I8, U8, I16, U16, I32, U32, I64, U64, F32, F64)}


def f16_to_f32(bits: int) -> float:
    """Value of an IEEE half given as its 16 bits."""
    return float(struct.unpack("<e", struct.pack("<H", bits))[0])


def f32_to_f16(value: float) -> int:
    """Bits of `value` rounded to an IEEE half, nearest even; too large becomes infinity."""
    try:
        return int(struct.unpack("<H", struct.pack("<e", value))[0])
    except OverflowError:  # struct refuses what rounds beyond 65504; hardware gives infinity
        return 0xFC00 if value < 0 else 0x7C00


def bf16_to_f32(bits: int) -> float:
    """Value of a bfloat16 given as its 16 bits."""
    return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])


def f32_to_bf16(value: float) -> int:
    """Bits of `value` rounded to a bfloat16, nearest even; subnormals are kept, a NaN stays a quiet NaN."""
    bits = struct.unpack("<I", struct.pack("<f", F32.wrap(value)))[0]
    if math.isnan(value):
        return int(bits >> 16) | 0x40
    return int(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def divide(a: float, b: float) -> float:
    """a / b as IEEE 754 has it, by zero too."""
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def fused_multiply_add(element: Element, a: float, b: float, c: float) -> float:
    """a * b + c rounded once to `element`."""
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return float(element.wrap(a * b + c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return float(element.wrap(a * b + c))  # keeps the sign of zero
    try:
        near = float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)
    if element.num_bytes == 4 and Fraction(near) != exact and not _is_odd(near):
        # Round to odd first: rounding to double and then to float would round twice.
        near = math.nextafter(near, math.inf if exact > Fraction(near) else -math.inf)
    return float(element.wrap(near))


def _is_odd(value: float) -> bool:
    return bool(struct.unpack("<Q", struct.pack("<d", value))[0] & 1)
