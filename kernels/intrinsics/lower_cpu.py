"""CPU lowering of the scalar and system intrinsics: a row of the table becomes LLVM instructions.

Plain accesses address by base + GEP index, not by an integer sum: only then does LLVM vectorise the loop
around them (1-byte loads: 14 GB/s against 181). They claim alignment 1, which costs nothing on x86 and
Arm. Ordered accesses are LLVM atomics of natural alignment.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.ir import IRBuilder as Builder

from .table import Intrinsic

LLVM_I1, LLVM_I8, LLVM_I32, LLVM_I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
LLVM_VOID = ir.VoidType()
LLVM_I8_POINTER = LLVM_I8.as_pointer()
SCALARS: dict[str, ir.Type] = {
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
    **{f"{sign}{bits}": ir.IntType(bits) for sign in "iu" for bits in (8, 16, 32, 64)},
}
LLVM_ORDERING = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
_RMW = {"fetch_add": "add", "fetch_or": "or", "fetch_and": "and", "exchange": "xchg"}
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
FUTEX_WAIT, FUTEX_WAKE = 0, 1  # without FUTEX_PRIVATE_FLAG: the word may be shared between processes
CLOCK_MONOTONIC = 1
CALL_WORDS = 11  # as many as cuLaunchKernel takes
# Knuth's multiplicative hash: the high bits of the product differ for numbers at any equal distance.
GOLDEN, STRIPE_SHIFT = 0x9E3779B97F4A7C15, 64 - 6
IS_X86 = platform.machine() == "x86_64"
IS_ARM = platform.machine() == "aarch64"

Emitter = Callable[[Builder, Intrinsic, list[ir.Value]], Any]


def external(
    builder: Builder, name: str, result: ir.Type, operands: list[ir.Type], variadic: bool = False
) -> Any:
    """The declared function `name` of the module being built: an LLVM intrinsic or a C symbol."""
    known = builder.module.globals.get(name)
    if known is None:
        known = ir.Function(builder.module, ir.FunctionType(result, operands, var_arg=variadic), name)
    return known


def element_pointer(builder: Builder, kind: ir.Type, base: ir.Value, index: ir.Value) -> ir.Value:
    """Pointer to element `index` of an array of `kind` at the integer address `base`."""
    return builder.gep(builder.inttoptr(base, kind.as_pointer()), [index], inbounds=True)


def _load(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    assert row.element is not None and row.ordering is not None
    kind = SCALARS[row.element.name]
    pointer = element_pointer(builder, kind, *args)
    if row.ordering == "plain":
        return builder.load(pointer, align=1)
    return builder.load_atomic(pointer, LLVM_ORDERING[row.ordering], row.element.num_bytes)


def _store(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    assert row.element is not None and row.ordering is not None
    base, index, value = args
    pointer = element_pointer(builder, SCALARS[row.element.name], base, index)
    if row.ordering == "plain":
        builder.store(value, pointer, align=1)
    else:
        builder.store_atomic(value, pointer, LLVM_ORDERING[row.ordering], row.element.num_bytes)


def _rmw(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    assert row.element is not None and row.ordering is not None
    base, index, value = args
    pointer = element_pointer(builder, SCALARS[row.element.name], base, index)
    operation = "fadd" if row.element.kind == "f" else _RMW[row.operation]
    return builder.atomic_rmw(operation, pointer, value, LLVM_ORDERING[row.ordering])


def _compare_swap(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    assert row.element is not None
    base, index, expected, desired = args
    pointer = element_pointer(builder, SCALARS[row.element.name], base, index)
    pair = builder.cmpxchg(pointer, expected, desired, "acq_rel", "acquire")
    return builder.extract_value(pair, 0)


def _fence(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    builder.fence(row.ordering)


def _fence_after_atomic(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    # A locked instruction orders like mfence, which would take 16 ns more; the compiler must still keep the order.
    builder.fence("acq_rel" if IS_X86 else "seq_cst")


def _pause(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    if IS_X86:
        builder.call(external(builder, "llvm.x86.sse2.pause", LLVM_VOID, []), [])
    elif IS_ARM:
        builder.call(external(builder, "llvm.aarch64.hint", LLVM_VOID, [LLVM_I32]), [LLVM_I32(1)])  # yield


def _yield_cpu(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    builder.call(external(builder, "sched_yield", LLVM_I32, []), [])


def _now_ns(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    timespec = entry_slot(builder, ir.ArrayType(LLVM_I64, 2))
    first = builder.bitcast(timespec, LLVM_I64.as_pointer())
    clock = external(builder, "clock_gettime", LLVM_I32, [LLVM_I32, LLVM_I64.as_pointer()])
    builder.call(clock, [LLVM_I32(CLOCK_MONOTONIC), first])
    seconds = builder.load(first)
    nanoseconds = builder.load(builder.gep(first, [LLVM_I64(1)]))
    return builder.add(builder.mul(seconds, LLVM_I64(1_000_000_000)), nanoseconds)


def _cycles(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    if not IS_X86:  # Arm's cycle counter faults in user mode
        return _now_ns(builder, row, args)
    return builder.call(external(builder, "llvm.readcyclecounter", LLVM_I64, []), [])


def _thread_pointer(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    pointer = external(builder, "llvm.thread.pointer.p0", LLVM_I8_POINTER, [])
    return builder.ptrtoint(builder.call(pointer, []), LLVM_I64)


def _thread_stripe(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    spread = builder.mul(_thread_pointer(builder, row, args), LLVM_I64(GOLDEN))
    return builder.lshr(spread, LLVM_I64(STRIPE_SHIFT))


def _prefetch(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    hint = external(builder, "llvm.prefetch.p0", LLVM_VOID, [LLVM_I8_POINTER, LLVM_I32, LLVM_I32, LLVM_I32])
    is_for_store, all_levels, data = (
        LLVM_I32(int(row.operation == "prefetch_for_store")),
        LLVM_I32(3),
        LLVM_I32(1),
    )
    builder.call(hint, [builder.inttoptr(args[0], LLVM_I8_POINTER), is_for_store, all_levels, data])


def _stream_fence(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    if IS_X86:
        # x86 orders ordinary stores by itself, so LLVM's release fence is no instruction there.
        builder.call(external(builder, "llvm.x86.sse.sfence", LLVM_VOID, []), [])
    else:
        builder.fence("release")


def _copy_bytes(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> None:
    copy = external(
        builder, "llvm.memcpy.p0.p0.i64", LLVM_VOID, [LLVM_I8_POINTER, LLVM_I8_POINTER, LLVM_I64, LLVM_I1]
    )
    dst, src, num_bytes = args
    builder.call(
        copy,
        [
            builder.inttoptr(dst, LLVM_I8_POINTER),
            builder.inttoptr(src, LLVM_I8_POINTER),
            num_bytes,
            LLVM_I1(0),
        ],
    )


def _count_zeros(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    name = "llvm.ctlz.i64" if row.operation == "count_leading_zeros_u64" else "llvm.cttz.i64"
    return builder.call(external(builder, name, LLVM_I64, [LLVM_I64, LLVM_I1]), [args[0], LLVM_I1(0)])


def _count_ones(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return builder.call(external(builder, "llvm.ctpop.i64", LLVM_I64, [LLVM_I64]), args)


def _multiply_high(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    wide = ir.IntType(128)
    product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
    return builder.trunc(builder.lshr(product, wide(64)), LLVM_I64)


def constant(value: int) -> Emitter:
    return lambda builder, row, args: LLVM_I64(value)


def _alone(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    return builder.zext(builder.icmp_signed("!=", args[0], LLVM_I64(0)), LLVM_I64)


def _futex_wait(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    address, expected, timeout_ns = args
    timeout_ns = builder.select(builder.icmp_signed("<", timeout_ns, LLVM_I64(0)), LLVM_I64(0), timeout_ns)
    timespec = builder.bitcast(entry_slot(builder, ir.ArrayType(LLVM_I64, 2)), LLVM_I64.as_pointer())
    builder.store(builder.sdiv(timeout_ns, LLVM_I64(1_000_000_000)), timespec)
    builder.store(builder.srem(timeout_ns, LLVM_I64(1_000_000_000)), builder.gep(timespec, [LLVM_I64(1)]))
    timeout = builder.ptrtoint(timespec, LLVM_I64)
    return _system_call(builder, [address, LLVM_I64(FUTEX_WAIT), builder.zext(expected, LLVM_I64), timeout])


def _futex_wake(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    address, count = args
    return _system_call(builder, [address, LLVM_I64(FUTEX_WAKE), count, LLVM_I64(0)])


def _system_call(builder: Builder, args: list[ir.Value]) -> ir.Value:
    """futex(2) through libc's syscall; its result, or -errno."""
    call = external(builder, "syscall", LLVM_I64, [LLVM_I64], variadic=True)
    number = LLVM_I64(SYS_FUTEX[platform.machine()])
    result = builder.call(call, [number, *args, LLVM_I64(0), LLVM_I64(0)])
    error = builder.load(builder.call(external(builder, "__errno_location", LLVM_I32.as_pointer(), []), []))
    failed = builder.icmp_signed("<", result, LLVM_I64(0))
    return builder.select(failed, builder.neg(builder.zext(error, LLVM_I64)), result)


def _call_handler(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    handler = ir.FunctionType(LLVM_I64, [LLVM_I64, LLVM_I64, LLVM_I64]).as_pointer()
    return builder.call(builder.inttoptr(args[0], handler), args[1:])


def _call_with(builder: Builder, row: Intrinsic, args: list[ir.Value]) -> ir.Value:
    function = ir.FunctionType(LLVM_I32, [LLVM_I64] * CALL_WORDS).as_pointer()
    words = builder.inttoptr(args[1], LLVM_I64.as_pointer())
    values = [builder.load(builder.gep(words, [LLVM_I64(index)])) for index in range(CALL_WORDS)]
    return builder.sext(builder.call(builder.inttoptr(args[0], function), values), LLVM_I64)


def entry_slot(builder: Builder, kind: ir.Type) -> ir.Value:
    """Stack room of `kind`, taken once per call of the function, not once per turn of a loop."""
    with builder.goto_entry_block():
        return builder.alloca(kind)


CPU_EMITTERS: dict[str, Emitter] = {
    "load": _load,
    "store": _store,
    "fetch_add": _rmw,
    "fetch_or": _rmw,
    "fetch_and": _rmw,
    "exchange": _rmw,
    "compare_swap": _compare_swap,
    "fence": _fence,
    "fence_after_atomic": _fence_after_atomic,
    "pause": _pause,
    "yield_cpu": _yield_cpu,
    "now_ns": _now_ns,
    "cycles": _cycles,
    "thread_pointer": _thread_pointer,
    "thread_stripe": _thread_stripe,
    "is_gpu": constant(0),
    "lane_index": constant(0),
    "num_lanes": constant(1),
    "block_lane": constant(0),
    "num_block_lanes": constant(1),
    "block_meet": _alone,
    "warp_meet": _alone,
    "prefetch": _prefetch,
    "prefetch_for_store": _prefetch,
    "stream_fence": _stream_fence,
    "copy_bytes": _copy_bytes,
    "count_leading_zeros_u64": _count_zeros,
    "count_trailing_zeros_u64": _count_zeros,
    "count_ones_u64": _count_ones,
    "multiply_high_u64": _multiply_high,
    "futex_wait": _futex_wait,
    "futex_wake": _futex_wake,
    "call_handler": _call_handler,
    "call_with": _call_with,
}
