"""Intrinsics beside memory: waiting, time, bits, bulk copy, calls out of compiled code.

Those marked CPU only are refused by the CUDA compiler with a typing error.
"""

from __future__ import annotations

from . import machine
from .elements import I64, U64
from .table import CPU_AND_CUDA, CPU_ONLY, Function, Ordering, define, names


def _pause() -> None:
    """Let the other hardware thread go on while this one spins; poll a few times before the first pause."""
    machine.current.pause()


def _yield_cpu() -> None:
    """Give the core away, for waits with more ranks than cores: sched_yield; CUDA sleeps a microsecond."""
    machine.current.yield_cpu()


def _now_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds, the same clock in all processes of a host (CUDA: globaltimer)."""
    return machine.current.now_ns()


def _cycles() -> int:
    """A cheap clock for differences: time stamp counter on x86, clock64 on CUDA, else nanoseconds."""
    return machine.current.cycles()


def _is_gpu() -> int:
    """0 on the CPU, 1 on CUDA: a constant, by which one source finds what its processor reaches."""
    return machine.current.is_gpu()


def _lane_index() -> int:
    """This lane's number: 0 on the CPU, the global thread index on CUDA."""
    return machine.current.lane_index()


def _num_lanes() -> int:
    """Lanes that run this kernel: 1 on the CPU, all threads of the launch on CUDA."""
    return machine.current.num_lanes()


def _block_lane() -> int:
    """This lane's number in its block: 0 on the CPU, the thread index on CUDA, where blocks have one dimension."""
    return 0


def _num_block_lanes() -> int:
    """Lanes of a block: 1 on the CPU, its threads on CUDA."""
    return 1


def _block_meet(flag: int) -> int:
    """1 where `flag` is not 0 in some lane of the block, else 0: the same in all, when all have come.

    What a lane stored before it is seen by the block's others behind it. Every lane of the block calls it."""
    return 1 if flag else 0


def _warp_meet(flag: int) -> int:
    """1 where `flag` is not 0 in some lane of the warp, else 0: `block_meet` of 32 lanes of a block, all of which call
    it; of one lane on the CPU."""
    return 1 if flag else 0


def _thread_pointer() -> int:
    """Identity of the running thread among those that live in this process; one register read. CPU only."""
    return machine.current.thread_pointer()


def _thread_stripe() -> int:
    """A number whose low six bits differ between most threads of a process: for counters that each has for itself.
    CPU: a hash of the thread pointer, for the kernel lays stacks apart by 2,049 pages or by multiples of 2 MiB, as it
    likes. CUDA: the lane."""
    return machine.current.thread_stripe()


def _prefetch(address: int) -> None:
    """Hint that the line at `address` will be read soon; any address is allowed."""
    machine.current.prefetch(address)


def _prefetch_for_store(address: int) -> None:
    """Hint that the line at `address` will be stored to soon: it is taken from other processors, not shared with
    them; any address is allowed."""
    machine.current.prefetch(address)


def _stream_fence() -> None:
    """Order earlier vec_stream stores before later stores: call it before the release that publishes them."""
    machine.current.fence("stream")


def _copy_bytes(dst: int, src: int, num_bytes: int) -> None:
    """Plain copy of `num_bytes` that do not overlap, in no particular order. CPU: memcpy. CUDA: one lane copies
    byte by byte, so bulk belongs into vector loops."""
    machine.current.copy(dst, src, num_bytes)


def _count_leading_zeros_u64(value: int) -> int:
    """Zero bits above the highest set bit; 64 for 0."""
    return 64 - U64.wrap(value).bit_length()


def _count_trailing_zeros_u64(value: int) -> int:
    """Zero bits below the lowest set bit; 64 for 0."""
    bits = U64.wrap(value)
    return (bits & -bits).bit_length() - 1 if bits else 64


def _count_ones_u64(value: int) -> int:
    """Set bits."""
    return int(U64.wrap(value)).bit_count()


def _multiply_high_u64(a: int, b: int) -> int:
    """Upper 64 bits of the unsigned 128-bit product."""
    return (U64.wrap(a) * U64.wrap(b)) >> 64


def _futex_wait(address: int, expected: int, timeout_ns: int) -> int:
    """Sleep while the u32 at `address` is `expected`, at most `timeout_ns`; 0 when woken, else -errno
    (-EAGAIN: the word differs, -ETIMEDOUT, -EINTR). Works across processes. CPU only."""
    return machine.current.futex_wait(address, expected & 0xFFFF_FFFF, timeout_ns)


def _futex_wake(address: int, count: int) -> int:
    """Wake up to `count` sleepers of futex_wait on `address`; how many, or -errno. CPU only."""
    return machine.current.futex_wake(address, count)


def _call_handler(function_address: int, request: int, reply: int, context: int) -> int:
    """Call the C function int64(int64, int64, int64) at `function_address` (see c_callback).

    CUDA: calls nothing and returns NOT_MAPPED (status.py), so that code that may ask others compiles for both."""
    arguments = (I64.wrap(request), I64.wrap(reply), I64.wrap(context))
    return machine.current.call_handler(function_address, *arguments)


def _call_with(function_address: int, arguments: int) -> int:
    """Call the C function at `function_address` with the CALL_WORDS int64 words at `arguments`; its int, as int64.

    For integers and pointers, of which C's conventions on x86-64 and AArch64 let a function take fewer than it is
    given. CPU only."""
    return machine.current.call_with(I64.wrap(function_address), arguments)


def _enter(
    body: Function,
    operands: str,
    result: str,
    targets: tuple[str, ...] = CPU_AND_CUDA,
    ordering: Ordering | None = None,
) -> Function:
    name = body.__name__.removeprefix("_")
    return define(body, name, name, operands, result, targets=targets, ordering=ordering)


pause = _enter(_pause, "", "void")
yield_cpu = _enter(_yield_cpu, "", "void")
now_ns = _enter(_now_ns, "", "i64")
cycles = _enter(_cycles, "", "i64")
is_gpu = _enter(_is_gpu, "", "i64")
lane_index = _enter(_lane_index, "", "i64")
num_lanes = _enter(_num_lanes, "", "i64")
block_lane = _enter(_block_lane, "", "i64")
num_block_lanes = _enter(_num_block_lanes, "", "i64")
block_meet = _enter(_block_meet, "i64", "i64")
warp_meet = _enter(_warp_meet, "i64", "i64")
thread_pointer = _enter(_thread_pointer, "", "i64", CPU_ONLY)
thread_stripe = _enter(_thread_stripe, "", "i64")
prefetch = _enter(_prefetch, "i64", "void")
prefetch_for_store = _enter(_prefetch_for_store, "i64", "void")
stream_fence = _enter(_stream_fence, "", "void")
copy_bytes = _enter(_copy_bytes, "i64 i64 i64", "void", ordering="plain")
count_leading_zeros_u64 = _enter(_count_leading_zeros_u64, "u64", "i64")
count_trailing_zeros_u64 = _enter(_count_trailing_zeros_u64, "u64", "i64")
count_ones_u64 = _enter(_count_ones_u64, "u64", "i64")
multiply_high_u64 = _enter(_multiply_high_u64, "u64 u64", "u64")
futex_wait = _enter(_futex_wait, "i64 u32 i64", "i64", CPU_ONLY)
futex_wake = _enter(_futex_wake, "i64 i64", "i64", CPU_ONLY)
call_with = _enter(_call_with, "i64 i64", "i64", CPU_ONLY)
call_handler = _enter(_call_handler, "i64 i64 i64 i64", "i64")

__all__ = names(__name__)  # noqa: PLE0605 - a list, made from the table
