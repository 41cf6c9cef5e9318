"""The faults build: every shared access of compiled code counts, and the n-th kills this process.

With UMEM_BUILD=faults each load, store and atomic of a kernel calls `umem_fault_tick` first; the normal
build has no trace of it. UMEM_FAULT_AT=n sets the countdown when the first kernel is made ready; `arm(n)`
sets it at run time, which forked ranks need, since each is to die elsewhere. The process dies by SIGKILL,
before the n-th access takes place, as if its power had gone. A vector store or a copy_bytes counts as one
access. The counter is private memory: a forked child has its own copy.
"""

from __future__ import annotations

import ctypes
import functools
import signal
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from umem import config

TICK = "umem_fault_tick"
COUNTER = "umem_fault_counter"  # accesses so far
DEADLINE = "umem_fault_deadline"  # the process dies when the counter reaches it; 0: never

_TICK_SOURCE = f"""
@{COUNTER} = global i64 0
@{DEADLINE} = global i64 0
declare i32 @getpid()
declare i32 @kill(i32, i32)
define void @{TICK}() {{
  %before = atomicrmw add ptr @{COUNTER}, i64 1 monotonic
  %now = add i64 %before, 1
  %deadline = load atomic i64, ptr @{DEADLINE} monotonic, align 8
  %due = icmp eq i64 %now, %deadline
  br i1 %due, label %die, label %live
die:
  %pid = call i32 @getpid()
  %ignored = call i32 @kill(i32 %pid, i32 {int(signal.SIGKILL)})
  br label %die
live:
  ret void
}}
"""


def emit_tick(builder: ir.IRBuilder) -> None:
    """Call the tick function before the access that follows."""
    tick = builder.module.globals.get(TICK)
    if tick is None:
        tick = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), TICK)
    builder.call(tick, [])


def is_active() -> bool:
    """True in the faults build."""
    return config.build() == "faults"


def install() -> None:
    """Make the tick function known to the linker of compiled code: before the first kernel is loaded."""
    _engine()


def arm(num_accesses: int) -> None:
    """Kill this process at the `num_accesses`-th shared access from now on (1: the next)."""
    assert num_accesses > 0, num_accesses
    _word(DEADLINE).value = _word(COUNTER).value + num_accesses


def disarm() -> None:
    """Let this process live."""
    _word(DEADLINE).value = 0


def count() -> int:
    """Shared accesses of this process so far, its parent's before the fork included."""
    return int(_word(COUNTER).value)


def _word(name: str) -> Any:
    return ctypes.c_int64.from_address(_engine().get_global_value_address(name))


@functools.cache
def _engine() -> Any:
    """The JIT that holds the tick function and its two words; it lives as long as the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(_TICK_SOURCE)
    target = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    llvm.add_symbol(TICK, engine.get_function_address(TICK))
    first = config.fault_at()
    if first is not None:
        ctypes.c_int64.from_address(engine.get_global_value_address(DEADLINE)).value = first
    return engine
