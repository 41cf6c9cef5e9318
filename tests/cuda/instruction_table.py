"""Instructions of PTX and what they give, in Python: operands and results are bits, as in registers.

A row: PTX over %d and %a, %b, %c; widths of the result and of the operands in bits; the same in Python.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    text: str
    result_bits: int
    operand_bits: tuple[int, ...]
    twin: Callable[..., int]


def signed(bits: int, width: int) -> int:
    return bits - (1 << width) if bits >> (width - 1) else bits


def quotient(a: int, b: int) -> int:
    """Division towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def f32(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def f64(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def of_f32(value: float) -> int:
    with np.errstate(all="ignore"):
        return int(np.float32(value).view(np.uint32))


def of_f64(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def of_f16(value: float) -> int:
    with np.errstate(all="ignore"):
        return int(np.float16(np.float32(value)).view(np.uint16))


def to_integer(value: float, width: int, is_signed: bool) -> int:
    """A conversion from floating point: towards zero, to the nearest bound outside; 0 for what is no number."""
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)
    if math.isnan(value):
        return 0
    return int(min(max(value, low), high)) if math.isfinite(value) else (high if value > 0 else low)


def shifted_right(a: int, count: int, width: int) -> int:
    return signed(a, width) >> min(count, width - 1)


def field(a: int, start: int, length: int, width: int, is_signed: bool) -> int:
    start, length = start & 255, length & 255
    if length == 0:
        return 0
    value = (signed(a, width) if is_signed else a) >> start
    value &= (1 << length) - 1
    return signed(value, length) if is_signed and length <= width else value


def inserted(piece: int, into: int, start: int, length: int, width: int) -> int:
    start, length = min(start & 255, width), min(length & 255, width)
    mask = ((1 << length) - 1) << start
    return into & ~mask | piece << start & mask


def permuted(a: int, b: int, selector: int) -> int:
    source, total = (b << 32 | a).to_bytes(8, "little"), 0
    for n in range(4):
        nibble = selector >> 4 * n & 15
        byte = source[nibble & 7]
        total |= (0xFF * (byte >> 7) if nibble & 8 else byte) << 8 * n
    return total


def funnel(low: int, high: int, count: int, left: bool) -> int:
    both = high << 32 | low
    return both << count >> 32 if left else both >> count


def smaller(a: float, b: float) -> float:
    """The number, where one of two is none."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return min(a, b)


def ordered(a: float, b: float) -> bool:
    return not (math.isnan(a) or math.isnan(b))


def both_halves(a: int, b: int) -> int:
    low = of_f32(np.float32(f32(a & 0xFFFFFFFF)) + np.float32(f32(b & 0xFFFFFFFF)))
    return low | of_f32(np.float32(f32(a >> 32)) + np.float32(f32(b >> 32))) << 32


def select(condition: str) -> str:
    """1 where the comparison holds."""
    return f"setp.{condition} %p, %a, %b; selp.u32 %d, 1, 0, %p;"


S32, S64 = (32, 32), (64, 64)
ROWS = [
    Row("add.s32 %d, %a, %b;", 32, S32, lambda a, b: a + b),
    Row("sub.s64 %d, %a, %b;", 64, S64, lambda a, b: a - b),
    Row("mul.lo.s32 %d, %a, %b;", 32, S32, lambda a, b: a * b),
    Row("mul.hi.u32 %d, %a, %b;", 32, S32, lambda a, b: a * b >> 32),
    Row("mul.hi.s64 %d, %a, %b;", 64, S64, lambda a, b: signed(a, 64) * signed(b, 64) >> 64),
    Row("mul.wide.s32 %d, %a, %b;", 64, S32, lambda a, b: signed(a, 32) * signed(b, 32)),
    Row("mul.wide.u32 %d, %a, %b;", 64, S32, lambda a, b: a * b),
    Row("mad.lo.s64 %d, %a, %b, %c;", 64, (64, 64, 64), lambda a, b, c: a * b + c),
    Row("mad.wide.u32 %d, %a, %b, %c;", 64, (32, 32, 64), lambda a, b, c: a * b + c),
    Row(
        "setp.eq.s32 %p, %b, 0; @%p mov.b32 %b, 7; div.s32 %d, %a, %b;",
        32,
        S32,
        lambda a, b: quotient(signed(a, 32), signed(b or 7, 32)),
    ),
    Row("or.b64 %b, %b, 1; rem.u64 %d, %a, %b;", 64, S64, lambda a, b: a % (b | 1)),
    Row("neg.s32 %d, %a;", 32, (32,), lambda a: -a),
    Row("abs.s64 %d, %a;", 64, (64,), lambda a: abs(signed(a, 64))),
    Row("min.s32 %d, %a, %b;", 32, S32, lambda a, b: min(signed(a, 32), signed(b, 32))),
    Row("max.u64 %d, %a, %b;", 64, S64, max),
    Row("and.b32 %d, %a, %b;", 32, S32, lambda a, b: a & b),
    Row("xor.b64 %d, %a, %b;", 64, S64, lambda a, b: a ^ b),
    Row("not.b32 %d, %a;", 32, (32,), lambda a: ~a),
    Row("and.b32 %b, %b, 127; shl.b32 %d, %a, %b;", 32, S32, lambda a, b: a << (b & 127)),
    Row("and.b32 %b, %b, 127; shr.s32 %d, %a, %b;", 32, S32, lambda a, b: shifted_right(a, b & 127, 32)),
    Row("and.b32 %b, %b, 127; shr.u64 %d, %a, %b;", 64, (64, 32), lambda a, b: a >> (b & 127)),
    Row("shf.l.wrap.b32 %d, %a, %b, %c;", 32, (32, 32, 32), lambda a, b, c: funnel(a, b, c & 31, left=True)),
    Row(
        "shf.r.clamp.b32 %d, %a, %b, %c;",
        32,
        (32, 32, 32),
        lambda a, b, c: funnel(a, b, min(c, 32), left=False),
    ),
    Row("popc.b64 %d, %a;", 32, (64,), lambda a: a.bit_count()),
    Row("clz.b32 %d, %a;", 32, (32,), lambda a: 32 - a.bit_length()),
    Row("brev.b32 %d, %a;", 32, (32,), lambda a: int(f"{a:032b}"[::-1], 2)),
    Row(
        "and.b32 %b, %b, 31; and.b32 %c, %c, 31; bfe.s32 %d, %a, %b, %c;",
        32,
        (32, 32, 32),
        lambda a, b, c: field(a, b & 31, c & 31, 32, is_signed=True),
    ),
    Row("bfe.u64 %d, %a, %b, %c;", 64, (64, 32, 32), lambda a, b, c: field(a, b, c, 64, is_signed=False)),
    Row("bfi.b32 %d, %a, %b, %c, 9;", 32, (32, 32, 32), lambda a, b, c: inserted(a, b, c, 9, 32)),
    Row("prmt.b32 %d, %a, %b, %c;", 32, (32, 32, 32), permuted),
    Row("lop3.b32 %d, %a, %b, %c, 0xCA;", 32, (32, 32, 32), lambda a, b, c: a & b | ~a & c),
    Row("mov.b64 %d, {%a, %b};", 64, S32, lambda a, b: b << 32 | a),
    Row("mov.b64 {%b, %d}, %a;", 32, (64, 32), lambda a, b: a >> 32),
    Row(select("lt.s32"), 32, S32, lambda a, b: signed(a, 32) < signed(b, 32)),
    Row(select("hi.u64"), 32, S64, lambda a, b: a > b),
    Row(select("ge.u32"), 32, S32, lambda a, b: a >= b),
    Row(select("lt.f32"), 32, S32, lambda a, b: f32(a) < f32(b)),
    Row(select("neu.f64"), 32, S64, lambda a, b: not ordered(f64(a), f64(b)) or f64(a) != f64(b)),
    Row(select("ne.f32"), 32, S32, lambda a, b: ordered(f32(a), f32(b)) and f32(a) != f32(b)),
    Row(select("nan.f32"), 32, S32, lambda a, b: not ordered(f32(a), f32(b))),
    Row("cvt.s64.s32 %d, %a;", 64, (32,), lambda a: signed(a, 32)),
    Row("cvt.u64.u32 %d, %a;", 64, (32,), lambda a: a),
    Row("cvt.s32.s8 %d, %a;", 32, (32,), lambda a: signed(a & 255, 8)),
    Row("cvt.u16.u32 %d, %a;", 32, (32,), lambda a: a & 0xFFFF),
    Row("cvt.rzi.s32.f32 %d, %a;", 32, (32,), lambda a: to_integer(f32(a), 32, is_signed=True)),
    Row("cvt.rzi.u64.f64 %d, %a;", 64, (64,), lambda a: to_integer(f64(a), 64, is_signed=False)),
    Row("cvt.rn.f32.s32 %d, %a;", 32, (32,), lambda a: of_f32(np.int32(signed(a, 32)).astype(np.float32))),
    Row("cvt.rn.f64.u64 %d, %a;", 64, (64,), lambda a: of_f64(float(np.uint64(a).astype(np.float64)))),
    Row("cvt.rn.f32.f64 %d, %a;", 32, (64,), lambda a: of_f32(np.float64(f64(a)))),
    Row("cvt.f64.f32 %d, %a;", 64, (32,), lambda a: of_f64(f32(a))),
    Row("cvt.rn.f16.f32 %h, %a; mov.b16 %d, %h;", 16, (32,), lambda a: of_f16(f32(a))),
    Row("add.rn.f32 %d, %a, %b;", 32, S32, lambda a, b: of_f32(np.float32(f32(a)) + np.float32(f32(b)))),
    Row("mul.f64 %d, %a, %b;", 64, S64, lambda a, b: of_f64(float(np.float64(f64(a)) * np.float64(f64(b))))),
    Row("div.rn.f32 %d, %a, %b;", 32, S32, lambda a, b: of_f32(np.float32(f32(a)) / np.float32(f32(b)))),
    Row("min.f32 %d, %a, %b;", 32, S32, lambda a, b: of_f32(smaller(f32(a), f32(b)))),
    Row("sqrt.rn.f32 %d, %a;", 32, (32,), lambda a: of_f32(np.sqrt(np.float32(f32(a))))),
    Row("abs.f32 %d, %a;", 32, (32,), lambda a: a & 0x7FFFFFFF),
    Row("neg.f64 %d, %a;", 64, (64,), lambda a: a ^ 1 << 63),
    Row("add.rn.f32x2 %d, %a, %b;", 64, S64, both_halves),
]


def same(row: Row, result: int, expected: int) -> bool:
    """Whether both are the same bits, or no numbers both: which of those is left to the machine."""
    if ".f32x2" in row.text:
        halves = [(bits & 0xFFFFFFFF, bits >> 32) for bits in (result, expected)]
        return all(
            a == b or (math.isnan(f32(a)) and math.isnan(f32(b))) for a, b in zip(*halves, strict=True)
        )
    if result == expected or not re.search(r"\.f(32|64)", row.text) or row.result_bits < 32:
        return result == expected
    number = f32 if row.result_bits == 32 else f64
    return math.isnan(number(result)) and math.isnan(number(expected))
