"""The faults build kills a process exactly at the n-th shared access; the normal build has no trace of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from umem.kernels import cpu_kernel, device_function, load_i64, store_i64, store_release_i64
from umem.kernels.intrinsics import faults

# What the scripts share: a kernel whose writes count up in shared memory, and what children of fork leave.
PREAMBLE = """
import mmap, os, signal
import numpy as np
from umem.kernels import *
from umem.kernels import faults

NUM_WRITES = 6
memory = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
base = memory.ctypes.data

@device_function
def write(base, i):
    if i % 2 == 0:
        store_i64(base, i, i + 1)
    else:
        store_release_i64(base, i, i + 1)

@cpu_kernel("void(int64, int64)")
def count_up(base, num_writes):
    i = 0
    while i < num_writes:
        write(base, i)
        i += 1

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

ARMED = (
    PREAMBLE
    + """
count_up.load()
for n in range(1, NUM_WRITES + 3):
    memory[:] = 0
    def work():
        faults.arm(n)
        count_up(base, NUM_WRITES)
    code = child(work)
    written = int((memory != 0).sum())
    expected = (-signal.SIGKILL, n - 1) if n <= NUM_WRITES else (0, NUM_WRITES)
    assert (code, written) == expected, n
assert faults.count() == 0  # the children's counters were their own
count_up(base, NUM_WRITES)
assert faults.count() == NUM_WRITES

def disarmed():
    faults.arm(1)
    faults.disarm()
    count_up(base, NUM_WRITES)
assert child(disarmed) == 0

def armed_later():
    count_up(base, NUM_WRITES)
    faults.arm(3)
    memory[:] = 0
    count_up(base, NUM_WRITES)
assert child(armed_later) == -signal.SIGKILL
assert int((memory != 0).sum()) == 2
print("done")
"""
)

FROM_ENVIRONMENT = (
    PREAMBLE
    + """
assert child(lambda: count_up(base, NUM_WRITES)) == -signal.SIGKILL
print(int((memory != 0).sum()))
"""
)

# Every row of the table that touches memory counts once, the others not at all.
EACH_COUNTS_ONCE = """
import mmap
import numpy as np
from umem.kernels import *
from umem.kernels import faults
from umem.kernels.intrinsics.table import TABLE

memory = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
base = memory.ctypes.data

def kernel_of(rows):
    calls = []
    for row in rows:
        operands = []
        for operand in row.operands:
            is_vector = operand.startswith("vec_")
            operands.append(f"vec_zero_{operand[4:]}()" if is_vector else "1")
        if row.ordering is not None and operands:
            operands[0] = "base"
        if row.name == "copy_bytes":
            operands[1] = "base + 64"
        if row.ordering == "stream":
            operands[1] = "0"  # it needs the alignment
        calls.append(f"    {row.name}({', '.join(operands)})")
    scope = dict(globals())
    exec("def body(base):\\n" + "\\n".join(calls), scope)
    return cpu_kernel("void(int64)")(scope["body"])

not_here = ("futex_wait", "futex_wake", "call_handler", "call_with")
called = [row for row in TABLE.values() if row.name not in not_here]
accesses = [row for row in called if row.is_access]
others = [row for row in called if not row.is_access]
assert {"load_i8", "vec_stream_f32", "copy_bytes", "store_f32_bf16"} <= {row.name for row in accesses}
assert {"pause", "fence_seq_cst", "vec_add_f32", "prefetch"} <= {row.name for row in others}
for rows, num_ticks in ((accesses, len(accesses)), (others, 0)):
    kernel = kernel_of(rows)
    kernel.load()
    before = faults.count()
    kernel(base)
    assert faults.count() - before == num_ticks, (faults.count() - before, num_ticks)
print("done")
"""


@pytest.fixture
def run_faults(run_python: Callable[..., Any]) -> Callable[..., str]:
    return lambda script, **variables: run_python(script, UMEM_BUILD="faults", **variables).stdout.strip()


def test_a_process_dies_at_exactly_the_armed_access(run_faults: Callable[..., str]) -> None:
    assert run_faults(ARMED) == "done"


def test_the_environment_arms_every_process(run_faults: Callable[..., str]) -> None:
    assert run_faults(FROM_ENVIRONMENT, UMEM_FAULT_AT="4") == "3"


def test_every_access_counts_once_and_nothing_else_does(run_faults: Callable[..., str]) -> None:
    assert run_faults(EACH_COUNTS_ONCE) == "done"


@device_function
def write(base, i):
    store_release_i64(base, i, load_i64(base, i + 1))


def test_the_normal_build_has_no_trace_of_it() -> None:
    @cpu_kernel("void(int64)")
    def kernel(base):
        write(base, 0)
        store_i64(base, 2, 3)

    assert not faults.is_active()
    ir, code = kernel.llvm_ir(), kernel.assembly()
    assert "store atomic" in ir and "mov" in code
    assert "umem_fault" not in ir + code


FAULTS_TEXT = """
from umem.kernels import *
@cpu_kernel("void(int64)")
def kernel(base):
    store_i64(base, 0, load_acquire_i64(base, 1))
print(kernel.llvm_ir().count("call void @umem_fault_tick()"))
"""


def test_the_faults_build_calls_the_tick_before_every_access(run_faults: Callable[..., str]) -> None:
    assert run_faults(FAULTS_TEXT) == "2"
