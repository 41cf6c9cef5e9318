"""Lowering of the vector and narrow-float intrinsics to LLVM vector types, for every target.

LLVM splits what a processor lacks, so every form works everywhere; the width only decides speed. A target
is a `VectorLowering` with its own register size, address space and alignment.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from llvmlite.ir import IRBuilder as Builder

from .lower_cpu import CPU_EMITTERS, IS_X86, LLVM_I8, LLVM_I32, LLVM_I64, SCALARS, Emitter, external
from .lower_narrow import (
    LLVM_F32,
    LLVM_I16,
    f16_to_f32_by_integers,
    f32_to_f16_by_integers,
    filled,
    round_to_bf16,
    shaped,
)
from .table import Intrinsic

NARROW_TYPES = {"f16": LLVM_I16, "bf16": LLVM_I16, "i8": LLVM_I8, "u8": LLVM_I8}
LANE_BYTES = 8  # of those that relaxed accesses have
_ELEMENT_BYTES = {"f32": 4, "i32": 4, "f64": 8, "i64": 8, "i8": 1, "u8": 1, "i16": 2}

Args = list[ir.Value]


@functools.cache
def cpu_features() -> frozenset[str]:
    """Features of the CPU that Numba compiles for, as LLVM names them: avx2, f16c."""
    from numba.core import config

    features = config.CPU_FEATURES
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def cpu_register_bytes() -> int:
    """Bytes of the widest vector register of that CPU."""
    return 64 if "avx512f" in cpu_features() else 32 if "avx2" in cpu_features() else 16


def element_name(row: Intrinsic) -> str:
    """Name of the row's element, which every vector intrinsic has."""
    assert row.element is not None
    return row.element.name


class VectorLowering:
    """How one target lowers vectors of `register_bytes`; an address without alignment claim by default."""

    address_space = 0

    def __init__(self, register_bytes: int, scalar_load: Emitter, scalar_store: Emitter):
        self.register_bytes = register_bytes
        self.scalar_load, self.scalar_store = scalar_load, scalar_store

    # --- types and addresses

    def num_lanes(self, element: str) -> int:
        """Lanes of a vector of `element`."""
        return self.register_bytes // _ELEMENT_BYTES[element]

    def vector_type(self, element: str) -> ir.VectorType:
        """LLVM type of the vector of `element`."""
        return ir.VectorType(SCALARS[element], self.num_lanes(element))

    def alignment(self, num_bytes: int) -> int:
        """Alignment that a plain access of `num_bytes` may claim."""
        return 1

    def pointer(self, builder: Builder, scalar: ir.Type, target: ir.Type, base: Any, index: Any) -> ir.Value:
        """Pointer to `target` at element `index` of the array of `scalar` at the integer address `base`."""
        start = builder.inttoptr(base, scalar.as_pointer(self.address_space))
        element = builder.gep(start, [index], inbounds=True)
        return builder.bitcast(element, target.as_pointer(self.address_space))

    # --- memory

    def lanes(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        return LLVM_I64(self.num_lanes(element_name(row)))

    def load(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        vector = self.vector_type(element_name(row))
        if row.ordering == "relaxed":
            return self.load_relaxed(builder, row, args)
        pointer = self.pointer(builder, vector.element, vector, *args)
        return builder.load(pointer, align=self.alignment(self.register_bytes))

    def load_relaxed(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        loaded = ir.Constant(self.vector_type(element_name(row)), ir.Undefined)
        for lane in range(loaded.type.count):
            value = self.scalar_load(builder, row, [args[0], builder.add(args[1], LLVM_I64(lane))])
            loaded = builder.insert_element(loaded, value, LLVM_I32(lane))
        return loaded

    def store(self, builder: Builder, row: Intrinsic, args: Args) -> None:
        vector = self.vector_type(element_name(row))
        pointer = self.pointer(builder, vector.element, vector, args[0], args[1])
        if row.ordering == "stream":
            self.stream(builder, row, pointer, args[2])
        elif row.ordering == "relaxed":
            self.store_relaxed(builder, row, args)
        else:
            builder.store(args[2], pointer, align=self.alignment(self.register_bytes))

    def store_relaxed(self, builder: Builder, row: Intrinsic, args: Args) -> None:
        for lane in range(args[2].type.count):
            value = builder.extract_element(args[2], LLVM_I32(lane))
            self.scalar_store(builder, row, [args[0], builder.add(args[1], LLVM_I64(lane)), value])

    def stream(self, builder: Builder, row: Intrinsic, pointer: ir.Value, value: ir.Value) -> None:
        # Nontemporal instructions need aligned addresses: without this claim LLVM would not use them.
        store = builder.store(value, pointer, align=self.register_bytes)
        store.set_metadata("nontemporal", builder.module.add_metadata([LLVM_I32(1)]))

    # --- arithmetic

    def zero(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        return ir.Constant(self.vector_type(element_name(row)), None)

    def splat(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        return splat(builder, args[0], self.num_lanes(element_name(row)))

    def indices(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        vector = self.vector_type(element_name(row))
        return ir.Constant(vector, list(range(vector.count)))

    def equal(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        lanes = args[0].type.count
        bits = builder.bitcast(builder.icmp_signed("==", *args), ir.IntType(lanes))
        return builder.zext(bits, LLVM_I64)

    def sum(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        name = element_name(row)
        scalar, vector = SCALARS[name], self.vector_type(name)
        suffix = f"v{vector.count}{name}"
        if name[0] == "i":
            return builder.call(external(builder, f"llvm.vector.reduce.add.{suffix}", scalar, [vector]), args)
        total = external(builder, f"llvm.vector.reduce.fadd.{suffix}", scalar, [scalar, vector])
        # Without `reassoc` the additions would form one chain, lane after lane.
        return builder.call(total, [scalar(-0.0), *args], fastmath=("reassoc",))

    def fma(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        name = element_name(row)
        vector = self.vector_type(name)
        fused = external(builder, f"llvm.fma.v{vector.count}{name}", vector, [vector] * 3)
        return builder.call(fused, args)

    def shift(self, method: str) -> Emitter:
        def emit(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
            vector = self.vector_type(element_name(row))
            count = args[1] if vector.element == LLVM_I64 else builder.trunc(args[1], vector.element)
            return getattr(builder, method)(args[0], splat(builder, count, vector.count))

        return emit

    # --- narrow formats in memory, f32 in registers; lanes 0 is one scalar

    def load_narrow(self, format_name: str, is_vector: bool) -> Emitter:
        scalar = NARROW_TYPES[format_name]

        def emit(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
            lanes = self.num_lanes("f32") if is_vector else 0
            narrow = shaped(scalar, lanes)
            pointer = self.pointer(builder, scalar, narrow, *args)
            num_bytes = scalar.width // 8 * (lanes or 1)
            bits = builder.load(pointer, align=self.alignment(num_bytes))
            return self.widen(builder, format_name, bits, lanes)

        return emit

    def widen(self, builder: Builder, format_name: str, bits: ir.Value, lanes: int) -> ir.Value:
        wide = shaped(LLVM_F32, lanes)
        if format_name == "f16":
            return self.f16_to_f32(builder, bits, lanes)
        if format_name == "bf16":  # the upper half of a float
            extended = builder.zext(bits, shaped(LLVM_I32, lanes))
            return builder.bitcast(builder.shl(extended, filled(LLVM_I32, lanes, 16)), wide)
        return builder.sitofp(bits, wide) if format_name == "i8" else builder.uitofp(bits, wide)

    def store_narrow(self, format_name: str, is_vector: bool) -> Emitter:
        def emit(builder: Builder, row: Intrinsic, args: Args) -> None:
            lanes = self.num_lanes("f32") if is_vector else 0
            if format_name == "f16":
                bits = self.f32_to_f16(builder, args[2], lanes)
            else:
                bits = round_to_bf16(builder, args[2], lanes)
            pointer = self.pointer(builder, LLVM_I16, bits.type, args[0], args[1])
            builder.store(bits, pointer, align=self.alignment(2 * (lanes or 1)))

        return emit

    def f16_to_f32(self, builder: Builder, bits: ir.Value, lanes: int) -> ir.Value:
        return f16_to_f32_by_integers(builder, bits, lanes)

    def f32_to_f16(self, builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
        return f32_to_f16_by_integers(builder, value, lanes)

    def emitters(self) -> dict[str, Emitter]:
        """Operation name -> what emits it."""
        table: dict[str, Emitter] = {
            "vec_lanes": self.lanes,
            "vec_load": self.load,
            "vec_store": self.store,
            "vec_zero": self.zero,
            "vec_splat": self.splat,
            "vec_indices": self.indices,
            "vec_equal": self.equal,
            "vec_sum": self.sum,
            "vec_fma": self.fma,
            "vec_add": arithmetic("fadd", "add"),
            "vec_sub": arithmetic("fsub", "sub"),
            "vec_mul": arithmetic("fmul", "mul"),
            "vec_div": arithmetic("fdiv", ""),
            "vec_min": extreme("<"),
            "vec_max": extreme(">"),
            "vec_and": arithmetic("", "and_"),
            "vec_or": arithmetic("", "or_"),
            "vec_xor": arithmetic("", "xor"),
            "vec_shift_left": self.shift("shl"),
            "vec_shift_right": self.shift("lshr"),
        }
        for prefix, is_vector in (("", False), ("vec_", True)):
            for name in NARROW_TYPES:
                table[f"{prefix}load_{name}"] = self.load_narrow(name, is_vector)
            for name in ("f16", "bf16"):
                table[f"{prefix}store_{name}"] = self.store_narrow(name, is_vector)
        return table


class CpuVectors(VectorLowering):
    """Vectors of this CPU's registers."""

    def __init__(self) -> None:
        super().__init__(cpu_register_bytes(), CPU_EMITTERS["load"], CPU_EMITTERS["store"])
        # Without F16C LLVM would call a library function that is not there.
        self.has_half = not IS_X86 or "f16c" in cpu_features()

    # LLVM has no atomic accesses of vectors. x86 never tears an aligned 8 bytes, of a vector neither, and no load
    # overtakes another, nor a store; what the compiler may do is up to the fences beside them.

    def load_relaxed(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        if not IS_X86:
            return super().load_relaxed(builder, row, args)
        vector = self.vector_type(element_name(row))
        return builder.load(self.pointer(builder, vector.element, vector, *args), align=LANE_BYTES)

    def store_relaxed(self, builder: Builder, row: Intrinsic, args: Args) -> None:
        if not IS_X86:
            super().store_relaxed(builder, row, args)
            return
        vector = self.vector_type(element_name(row))
        pointer = self.pointer(builder, vector.element, vector, args[0], args[1])
        builder.store(args[2], pointer, align=LANE_BYTES)

    def f16_to_f32(self, builder: Builder, bits: ir.Value, lanes: int) -> ir.Value:
        if not self.has_half:
            return super().f16_to_f32(builder, bits, lanes)
        half = builder.bitcast(bits, shaped(ir.HalfType(), lanes))
        return builder.fpext(half, shaped(LLVM_F32, lanes))

    def f32_to_f16(self, builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
        if not self.has_half:
            return super().f32_to_f16(builder, value, lanes)
        half = builder.fptrunc(value, shaped(ir.HalfType(), lanes))
        return builder.bitcast(half, shaped(LLVM_I16, lanes))


def arithmetic(float_method: str, integer_method: str) -> Emitter:
    """Emitter of one LLVM instruction, chosen by the element's kind."""

    def emit(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        method = float_method if element_name(row)[0] == "f" else integer_method
        return getattr(builder, method)(*args)

    return emit


def extreme(comparison: str) -> Emitter:
    """Emitter of `a if a < b else b`, which is one min instruction on x86, NaN rule included."""

    def emit(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        compares = {"f": builder.fcmp_ordered, "i": builder.icmp_signed, "u": builder.icmp_unsigned}
        compare = compares[element_name(row)[0]]
        return builder.select(compare(comparison, *args), *args)

    return emit


def splat(builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with `value` in all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, LLVM_I32(0))
    zeros = ir.Constant(ir.VectorType(LLVM_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)
