"""CUDA lowering: a row of the table becomes PTX, ordered accesses of the scope of their row.

Numba's own `cuda.atomic` operations are relaxed and of device scope: too weak between GPUs and the host.
So ordered accesses are inline PTX, with `.sys` where the row says no less; addresses are in global memory,
plain accesses are LLVM loads and stores of that space. All accesses need natural alignment, vectors 16 B.
"""

from __future__ import annotations

from llvmlite import ir
from llvmlite.ir import IRBuilder as Builder

from .. import status
from .elements import Element
from .lower_cpu import (
    CPU_EMITTERS,
    LLVM_I1,
    LLVM_I8_POINTER,
    LLVM_I32,
    LLVM_I64,
    LLVM_VOID,
    SCALARS,
    Emitter,
    constant,
    external,
)
from .lower_narrow import LLVM_F32, LLVM_I16, shaped
from .lower_vector import VectorLowering, element_name
from .table import Intrinsic

GLOBAL_SPACE = 1
VECTOR_BYTES = 16  # the widest load of one thread that compute capability 8.0 has
PTX_ORDERING = {"relaxed": "relaxed", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
# PTX knows one fence for acquire and release; it is stronger than either.
PTX_FENCE = {"acquire": "acq_rel", "release": "acq_rel", "seq_cst": "sc"}
WARP_LANES = 32
PAUSE_NS = 32
YIELD_NS = 1000

Args = list[ir.Value]


def ptx(builder: Builder, text: str, constraints: str, result: ir.Type, args: Args) -> ir.Value:
    """Inline PTX that the compiler may not move memory accesses across."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    parts = [part for part in (constraints, "~{memory}") if part]
    return builder.call(ir.InlineAsm(kind, text, ",".join(parts), side_effect=True), args)


def register_letter(element: Element) -> str:
    """Constraint letter of inline PTX for a register that holds `element`."""
    if element.kind == "f":
        return {4: "f", 8: "d"}[element.num_bytes]
    return {1: "h", 2: "h", 4: "r", 8: "l"}[element.num_bytes]


def ptx_type(element: Element) -> str:
    """PTX's name of the type: s32, u8, f64."""
    return f"{element.kind.replace('i', 's')}{8 * element.num_bytes}"


def _address(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    assert row.element is not None
    return builder.add(args[0], builder.mul(args[1], LLVM_I64(row.element.num_bytes)))


def _pointer(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    kind = SCALARS[element_name(row)].as_pointer(GLOBAL_SPACE)
    return builder.gep(builder.inttoptr(args[0], kind), [args[1]], inbounds=True)


def _load(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    assert row.element is not None and row.ordering is not None
    if row.ordering == "plain":
        return builder.load(_pointer(builder, row, args), align=row.element.num_bytes)
    kind, letter = SCALARS[row.element.name], register_letter(row.element)
    text = f"ld.{PTX_ORDERING[row.ordering]}.{row.scope}.global.{ptx_type(row.element)} $0, [$1];"
    if row.element.num_bytes > 1:
        return ptx(builder, text, f"={letter},l", kind, [_address(builder, row, args)])
    return builder.trunc(ptx(builder, text, "=h,l", LLVM_I16, [_address(builder, row, args)]), kind)


def _store(builder: Builder, row: Intrinsic, args: Args) -> None:
    assert row.element is not None and row.ordering is not None
    value = args[2]
    if row.ordering == "plain":
        builder.store(value, _pointer(builder, row, args), align=row.element.num_bytes)
        return
    text = f"st.{PTX_ORDERING[row.ordering]}.{row.scope}.global.{ptx_type(row.element)} [$0], $1;"
    if row.element.num_bytes == 1:
        value = builder.zext(value, LLVM_I16)  # PTX has no registers of 8 bits
    ptx(builder, text, f"l,{register_letter(row.element)}", LLVM_VOID, [_address(builder, row, args), value])


def _atomic(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    assert row.element is not None and row.ordering is not None
    bits = 8 * row.element.num_bytes
    operation = {
        # Two's complement: the unsigned addition is the signed one; PTX has no 64-bit signed form.
        "fetch_add": f"add.{'f' if row.element.kind == 'f' else 'u'}{bits}",
        "fetch_or": f"or.b{bits}",
        "fetch_and": f"and.b{bits}",
        "exchange": f"exch.b{bits}",
        "compare_swap": f"cas.b{bits}",
    }[row.operation]
    letter = register_letter(row.element)
    operands = args[2:]
    slots = ", ".join(f"${n + 2}" for n in range(len(operands)))
    text = f"atom.{PTX_ORDERING[row.ordering]}.{row.scope}.global.{operation} $0, [$1], {slots};"
    constraints = ",".join([f"={letter}", "l", *[letter] * len(operands)])
    kind = SCALARS[row.element.name]
    return ptx(builder, text, constraints, kind, [_address(builder, row, args), *operands])


def _fence(builder: Builder, row: Intrinsic, args: Args) -> None:
    assert row.ordering is not None
    ptx(builder, f"fence.{PTX_FENCE[row.ordering]}.{row.scope};", "", LLVM_VOID, [])


def _statement(text: str) -> Emitter:
    def emit(builder: Builder, row: Intrinsic, args: Args) -> None:
        ptx(builder, text, ",".join("l" for _ in args), LLVM_VOID, args)

    return emit


def _special_register(name: str) -> Emitter:
    def emit(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        return ptx(builder, f"mov.u64 $0, %{name};", "=l", LLVM_I64, [])

    return emit


def _index(builder: Builder, name: str) -> ir.Value:
    value = external(builder, f"llvm.nvvm.read.ptx.sreg.{name}.x", LLVM_I32, [])
    return builder.zext(builder.call(value, []), LLVM_I64)


def _lane_index(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    block = builder.mul(_index(builder, "ctaid"), _index(builder, "ntid"))
    return builder.add(block, _index(builder, "tid"))


def _num_lanes(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    return builder.mul(_index(builder, "nctaid"), _index(builder, "ntid"))


def _block_lane(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    return _index(builder, "tid")


def _num_block_lanes(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    return _index(builder, "ntid")


def _block_meet(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    text = (
        "{ .reg .pred mine, any; setp.ne.s64 mine, $1, 0; barrier.cta.red.or.pred any, 0, mine;"
        " selp.s64 $0, 1, 0, any; }"
    )
    return ptx(builder, text, "=l,l", LLVM_I64, args)


def _warp_meet(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    first = builder.and_(_index(builder, "tid"), LLVM_I64(-WARP_LANES))
    left = builder.sub(_index(builder, "ntid"), first)  # the last warp of a block may have fewer lanes
    is_whole = builder.icmp_unsigned(">=", left, LLVM_I64(WARP_LANES))
    some = builder.sub(builder.shl(LLVM_I64(1), left), LLVM_I64(1))
    mask = builder.trunc(builder.select(is_whole, LLVM_I64(-1), some), LLVM_I32)
    text = (
        "{ .reg .pred mine, any; setp.ne.s64 mine, $1, 0; vote.sync.any.pred any, mine, $2;"
        " bar.warp.sync $2; selp.s64 $0, 1, 0, any; }"  # a vote orders no memory
    )
    return ptx(builder, text, "=l,l,r", LLVM_I64, [args[0], mask])


def _stream_fence(builder: Builder, row: Intrinsic, args: Args) -> None:
    # st.global.cs is an ordinary store with a cache hint: the release that follows orders it already.
    ptx(builder, "", "", LLVM_VOID, [])


def _copy_bytes(builder: Builder, row: Intrinsic, args: Args) -> None:
    space = LLVM_I8_POINTER.pointee.as_pointer(GLOBAL_SPACE)
    dst, src = (builder.inttoptr(address, space) for address in args[:2])
    copy = external(builder, "llvm.memcpy.p1i8.p1i8.i64", LLVM_VOID, [space, space, LLVM_I64, LLVM_I1])
    builder.call(copy, [dst, src, args[2], LLVM_I1(0)])


def _multiply_high(builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
    kind = ir.FunctionType(LLVM_I64, [LLVM_I64, LLVM_I64])
    return builder.call(ir.InlineAsm(kind, "mul.hi.u64 $0, $1, $2;", "=l,l,l"), args)


class CudaVectors(VectorLowering):
    """Vectors of 16 B in global memory; arithmetic that NVVM has for scalars only goes lane by lane."""

    address_space = GLOBAL_SPACE

    def alignment(self, num_bytes: int) -> int:
        return num_bytes

    def stream(self, builder: Builder, row: Intrinsic, pointer: ir.Value, value: ir.Value) -> None:
        assert row.element is not None
        count = value.type.count
        letter = register_letter(row.element)
        kind = f"{'f' if row.element.kind == 'f' else 'b'}{8 * row.element.num_bytes}"
        slots = ", ".join(f"${n + 1}" for n in range(count))
        text = f"st.global.cs.v{count}.{kind} [$0], {{{slots}}};"
        lanes = [builder.extract_element(value, LLVM_I32(n)) for n in range(count)]
        ptx(
            builder,
            text,
            ",".join(["l", *[letter] * count]),
            LLVM_VOID,
            [builder.ptrtoint(pointer, LLVM_I64), *lanes],
        )

    def equal(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        bits = LLVM_I64(0)
        for lane in range(args[0].type.count):
            same = builder.icmp_signed("==", *[builder.extract_element(arg, LLVM_I32(lane)) for arg in args])
            bits = builder.or_(bits, builder.shl(builder.zext(same, LLVM_I64), LLVM_I64(lane)))
        return bits

    def sum(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        vector = args[0]
        add = builder.fadd if element_name(row)[0] == "f" else builder.add
        total = builder.extract_element(vector, LLVM_I32(0))
        for lane in range(1, vector.type.count):
            total = add(total, builder.extract_element(vector, LLVM_I32(lane)))
        return total

    def fma(self, builder: Builder, row: Intrinsic, args: Args) -> ir.Value:
        name = element_name(row)
        scalar = SCALARS[name]
        fused = external(builder, f"llvm.fma.{name}", scalar, [scalar] * 3)
        result = ir.Constant(args[0].type, ir.Undefined)
        for lane in range(args[0].type.count):
            operands = [builder.extract_element(arg, LLVM_I32(lane)) for arg in args]
            result = builder.insert_element(result, builder.call(fused, operands), LLVM_I32(lane))
        return result

    def f16_to_f32(self, builder: Builder, bits: ir.Value, lanes: int) -> ir.Value:
        return _each_lane(builder, bits, lanes, "cvt.f32.f16 $0, $1;", "=f,h", LLVM_F32)

    def f32_to_f16(self, builder: Builder, value: ir.Value, lanes: int) -> ir.Value:
        return _each_lane(builder, value, lanes, "cvt.rn.f16.f32 $0, $1;", "=h,f", LLVM_I16)


def _each_lane(
    builder: Builder, value: ir.Value, lanes: int, text: str, constraints: str, kind: ir.Type
) -> ir.Value:
    convert = ir.InlineAsm(ir.FunctionType(kind, [shaped_element(value, lanes)]), text, constraints)
    if not lanes:
        return builder.call(convert, [value])
    result = ir.Constant(shaped(kind, lanes), ir.Undefined)
    for lane in range(lanes):
        converted = builder.call(convert, [builder.extract_element(value, LLVM_I32(lane))])
        result = builder.insert_element(result, converted, LLVM_I32(lane))
    return result


def shaped_element(value: ir.Value, lanes: int) -> ir.Type:
    """Type of one lane of `value`."""
    return value.type.element if lanes else value.type


def _call_handler(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return ir.Constant(LLVM_I64, status.NOT_MAPPED)  # the host's functions are out of a device's reach


CUDA_VECTORS = CudaVectors(VECTOR_BYTES, _load, _store)
CUDA_EMITTERS: dict[str, Emitter] = {
    **CUDA_VECTORS.emitters(),
    "load": _load,
    "store": _store,
    "fetch_add": _atomic,
    "fetch_or": _atomic,
    "fetch_and": _atomic,
    "exchange": _atomic,
    "compare_swap": _atomic,
    "fence": _fence,
    "fence_after_atomic": _fence,
    "pause": _statement(f"nanosleep.u32 {PAUSE_NS};"),
    "yield_cpu": _statement(f"nanosleep.u32 {YIELD_NS};"),
    "prefetch": _statement("prefetch.global.L2 [$0];"),
    "prefetch_for_store": _statement("prefetch.global.L2 [$0];"),
    "now_ns": _special_register("globaltimer"),
    "cycles": _special_register("clock64"),
    "is_gpu": constant(1),
    "lane_index": _lane_index,
    "thread_stripe": _lane_index,
    "block_lane": _block_lane,
    "num_block_lanes": _num_block_lanes,
    "block_meet": _block_meet,
    "warp_meet": _warp_meet,
    "num_lanes": _num_lanes,
    "stream_fence": _stream_fence,
    "copy_bytes": _copy_bytes,
    "call_handler": _call_handler,
    "count_leading_zeros_u64": CPU_EMITTERS["count_leading_zeros_u64"],
    "count_trailing_zeros_u64": CPU_EMITTERS["count_trailing_zeros_u64"],
    "count_ones_u64": CPU_EMITTERS["count_ones_u64"],
    "multiply_high_u64": _multiply_high,
}
