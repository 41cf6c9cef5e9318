"""Conversions between f32 and the 16-bit formats by integer instructions, for scalars and vectors.

Every function takes `lanes`: 0 is a scalar. They need no feature of the processor, and give the same bits on
every one.
"""

from __future__ import annotations

from llvmlite import ir
from llvmlite.ir import IRBuilder as Builder

LLVM_F32 = ir.FloatType()
LLVM_I16, LLVM_I32 = ir.IntType(16), ir.IntType(32)

F32_INFINITY = 0xFF << 23
F16_OVERFLOW = (127 + 16) << 23  # 65536.0: from here on a half is infinite
F16_NORMAL = (127 - 14) << 23  # smallest normal half
F16_INFINITY, F16_QUIET_NAN = 0x7C00, 0x7E00
BIAS_DIFFERENCE = 127 - 15
# 0.5: its last bit has the weight of a half's last subnormal bit, so that adding it rounds to such bits.
SUBNORMAL_MAGIC = (BIAS_DIFFERENCE + 13 + 1) << 23


def shaped(scalar: ir.Type, lanes: int) -> ir.Type:
    """Vector of `lanes`, or the scalar itself for 0."""
    return ir.VectorType(scalar, lanes) if lanes else scalar


def filled(scalar: ir.Type, lanes: int, value: int) -> ir.Constant:
    """`value` in the shape of `shaped`."""
    return ir.Constant(ir.VectorType(scalar, lanes), [value] * lanes) if lanes else scalar(value)


def round_to_bf16(builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
    """Bits of the nearest bfloat16, ties to even; a NaN stays a quiet NaN.

    Also where AVX-512 has an instruction for it: that flushes subnormals to zero, so that two machines
    would store different bytes.
    """

    def constant(number: int) -> ir.Constant:
        return filled(LLVM_I32, lanes, number)

    bits = builder.bitcast(value, shaped(LLVM_I32, lanes))
    high = builder.lshr(bits, constant(16))
    odd = builder.and_(high, constant(1))
    rounded = builder.add(builder.add(bits, constant(0x7FFF)), odd)
    is_nan = builder.fcmp_unordered("uno", value, value)
    quiet_nan = builder.or_(high, constant(0x40))
    chosen = builder.select(is_nan, quiet_nan, builder.lshr(rounded, constant(16)))
    return builder.trunc(chosen, shaped(LLVM_I16, lanes))


def f16_to_f32_by_integers(builder: Builder, bits: ir.Value, lanes: int) -> ir.Value:
    """Value of halves given as bits: a multiplication by 2**112 re-biases, subnormals included.

    Source: F. Giesen, "Half to float done quic" (2010).
    """

    def constant(number: int) -> ir.Constant:
        return filled(LLVM_I32, lanes, number)

    wide, floats = shaped(LLVM_I32, lanes), shaped(LLVM_F32, lanes)
    word = builder.zext(bits, wide)
    magnitude = builder.and_(word, constant(0x7FFF))
    sign = builder.shl(builder.and_(word, constant(0x8000)), constant(16))
    scale = builder.bitcast(constant((127 + BIAS_DIFFERENCE) << 23), floats)
    shifted = builder.bitcast(builder.shl(magnitude, constant(13)), floats)
    value = builder.bitcast(builder.fmul(shifted, scale), wide)
    is_special = builder.icmp_unsigned(">=", magnitude, constant(F16_INFINITY))
    special = builder.or_(value, constant(F32_INFINITY))
    return builder.bitcast(builder.or_(builder.select(is_special, special, value), sign), floats)


def f32_to_f16_by_integers(builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
    """Bits of the nearest halves, ties to even; too large becomes infinity, a NaN a quiet NaN.

    Source: F. Giesen, float_to_half_fast3_rtne (2016).
    """

    def constant(number: int) -> ir.Constant:
        return filled(LLVM_I32, lanes, number & 0xFFFF_FFFF)

    wide, floats = shaped(LLVM_I32, lanes), shaped(LLVM_F32, lanes)
    bits = builder.bitcast(value, wide)
    magnitude = builder.and_(bits, constant(0x7FFF_FFFF))
    sign = builder.lshr(builder.and_(bits, constant(0x8000_0000)), constant(16))

    is_nan = builder.icmp_unsigned(">", magnitude, constant(F32_INFINITY))
    special = builder.select(is_nan, constant(F16_QUIET_NAN), constant(F16_INFINITY))

    magic = constant(SUBNORMAL_MAGIC)
    aligned = builder.fadd(builder.bitcast(magnitude, floats), builder.bitcast(magic, floats))
    subnormal = builder.sub(builder.bitcast(aligned, wide), magic)

    odd = builder.and_(builder.lshr(magnitude, constant(13)), constant(1))
    rebiased = builder.add(magnitude, constant(-(BIAS_DIFFERENCE << 23) + 0xFFF))
    normal = builder.lshr(builder.add(rebiased, odd), constant(13))

    is_small = builder.icmp_unsigned("<", magnitude, constant(F16_NORMAL))
    is_large = builder.icmp_unsigned(">=", magnitude, constant(F16_OVERFLOW))
    finite = builder.select(is_small, subnormal, normal)
    chosen = builder.or_(builder.select(is_large, special, finite), sign)
    return builder.trunc(chosen, shaped(LLVM_I16, lanes))
