"""CPU lowering of the vector intrinsics: LLVM vector types, as wide as this CPU's registers.

LLVM splits or scalarises what a CPU lacks, so every form works everywhere; the width only decides speed.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from .intrinsics import Intrinsic
from .lower_cpu import I8, I32, I64, SCALARS, Emitter, element_pointer, external

F32 = SCALARS["f32"]
I16 = ir.IntType(16)
LINE_BYTES = 64


@functools.cache
def register_bytes() -> int:
    """Bytes of the widest vector register that the code is compiled for."""
    from numba.core import config

    features = config.CPU_FEATURES
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    names = features.split(",")
    return 64 if "+avx512f" in names else 32 if "+avx2" in names else 16


def num_lanes(element_name: str) -> int:
    """Lanes of a vector of that element on this CPU."""
    return register_bytes() // (SCALARS[element_name].width // 8 if element_name[0] == "i" else _float_bytes(element_name))


def _float_bytes(element_name: str) -> int:
    return 4 if element_name == "f32" else 8


def vector_type(element_name: str) -> ir.VectorType:
    """LLVM type of the vector of that element."""
    return ir.VectorType(SCALARS[element_name], num_lanes(element_name))


def _element(row: Intrinsic) -> str:
    assert row.element is not None
    return row.element.name


def _pointer(builder: ir.IRBuilder, scalar: ir.Type, vector: ir.Type, base: ir.Value, index: ir.Value) -> ir.Value:
    return builder.bitcast(element_pointer(builder, scalar, base, index), vector.as_pointer())


def _lanes(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return I64(num_lanes(_element(row)))


def _load(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    name = _element(row)
    return builder.load(_pointer(builder, SCALARS[name], vector_type(name), *args), align=1)


def _store(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> None:
    name = _element(row)
    pointer = _pointer(builder, SCALARS[name], vector_type(name), args[0], args[1])
    if row.ordering != "stream":
        builder.store(args[2], pointer, align=1)
        return
    # Nontemporal instructions exist for aligned addresses only: without the claim LLVM would store normally.
    store = builder.store(args[2], pointer, align=register_bytes())
    store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))


def _zero(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return ir.Constant(vector_type(_element(row)), None)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with `value` in all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def _splat(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return splat(builder, args[0], num_lanes(_element(row)))


def _sum(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    name = _element(row)
    scalar, vector = SCALARS[name], vector_type(name)
    if name[0] == "i":
        return builder.call(external(builder, f"llvm.vector.reduce.add.v{vector.count}{name}", scalar, [vector]), args)
    total = external(builder, f"llvm.vector.reduce.fadd.v{vector.count}{name}", scalar, [scalar, vector])
    # Without `reassoc` the additions would form one chain of lane after lane.
    return builder.call(total, [scalar(-0.0), *args], fastmath=("reassoc",))


def _arithmetic(float_name: str, integer_name: str) -> Emitter:
    def emit(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
        method = float_name if _element(row)[0] == "f" else integer_name
        return getattr(builder, method)(*args)

    return emit


def _extreme(comparison: str) -> Emitter:
    def emit(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
        compare = builder.fcmp_ordered if _element(row)[0] == "f" else builder.icmp_signed
        return builder.select(compare(comparison, *args), *args)

    return emit


def _shift(method: str) -> Emitter:
    def emit(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
        vector = vector_type(_element(row))
        count = args[1] if vector.element == I64 else builder.trunc(args[1], vector.element)
        return getattr(builder, method)(args[0], splat(builder, count, vector.count))

    return emit


def _fma(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    name = _element(row)
    vector = vector_type(name)
    return builder.call(external(builder, f"llvm.fma.v{vector.count}{name}", vector, [vector] * 3), args)


def _shaped(kind: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(kind, lanes) if lanes else kind


def _filled(kind: ir.Type, lanes: int, value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes) if lanes else kind(value)


def _load_narrow(format_name: str, is_vector: bool) -> Emitter:
    def emit(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
        lanes = num_lanes("f32") if is_vector else 0
        scalar: ir.Type = {"f16": ir.HalfType(), "bf16": I16}.get(format_name, I8)
        narrow, wide = _shaped(scalar, lanes), _shaped(F32, lanes)
        value = builder.load(_pointer(builder, scalar, narrow, *args), align=1)
        if format_name == "f16":
            return builder.fpext(value, wide)
        if format_name == "bf16":  # the upper half of a float
            bits = builder.shl(builder.zext(value, _shaped(I32, lanes)), _filled(I32, lanes, 16))
            return builder.bitcast(bits, wide)
        return builder.sitofp(value, wide) if format_name == "i8" else builder.uitofp(value, wide)

    return emit


def _store_narrow(format_name: str, is_vector: bool) -> Emitter:
    def emit(builder: ir.IRBuilder, row: Intrinsic, args: list[ir.Value]) -> None:
        lanes = num_lanes("f32") if is_vector else 0
        scalar: ir.Type = ir.HalfType() if format_name == "f16" else I16
        narrow = _shaped(scalar, lanes)
        if format_name == "f16":
            value = builder.fptrunc(args[2], narrow)
        else:
            value = builder.trunc(_round_to_bf16(builder, args[2], lanes), narrow)
        builder.store(value, _pointer(builder, scalar, narrow, args[0], args[1]), align=1)

    return emit


def _round_to_bf16(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """Bits of the nearest bfloat16 in the low half of an i32.

    By integers on every CPU: the AVX-512 instruction would flush subnormals to zero, so that two machines
    would store different bytes.
    """
    bits = builder.bitcast(value, _shaped(I32, lanes))
    high = builder.lshr(bits, _filled(I32, lanes, 16))
    odd = builder.and_(high, _filled(I32, lanes, 1))
    rounded = builder.add(builder.add(bits, _filled(I32, lanes, 0x7FFF)), odd)
    quiet_nan = builder.or_(high, _filled(I32, lanes, 0x40))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.select(is_nan, quiet_nan, builder.lshr(rounded, _filled(I32, lanes, 16)))


EMITTERS: dict[str, Any] = {
    "vec_lanes": _lanes,
    "vec_load": _load,
    "vec_store": _store,
    "vec_zero": _zero,
    "vec_splat": _splat,
    "vec_sum": _sum,
    "vec_add": _arithmetic("fadd", "add"),
    "vec_sub": _arithmetic("fsub", "sub"),
    "vec_mul": _arithmetic("fmul", "mul"),
    "vec_min": _extreme("<"),
    "vec_max": _extreme(">"),
    "vec_fma": _fma,
    "vec_and": _arithmetic("", "and_"),
    "vec_or": _arithmetic("", "or_"),
    "vec_xor": _arithmetic("", "xor"),
    "vec_shift_left": _shift("shl"),
    "vec_shift_right": _shift("lshr"),
}
for _format in ("f16", "bf16", "i8", "u8"):
    EMITTERS[f"load_{_format}"] = _load_narrow(_format, is_vector=False)
    EMITTERS[f"vec_load_{_format}"] = _load_narrow(_format, is_vector=True)
for _format in ("f16", "bf16"):
    EMITTERS[f"store_{_format}"] = _store_narrow(_format, is_vector=False)
    EMITTERS[f"vec_store_{_format}"] = _store_narrow(_format, is_vector=True)
