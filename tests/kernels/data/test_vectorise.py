"""The hot loops use the widest registers and keep their sums in them: read from the assembly."""

from __future__ import annotations

import platform
import re
from functools import cache

import numba
import pytest
from llvmlite import binding as llvm

from umem.bench.parts.random_access import cpu_chase, cpu_sum_words
from umem.kernels import CpuKernel
from umem.kernels.build.compile import OPTIONS
from umem.kernels.data.copy import cpu_copy
from umem.kernels.data.gather_sum import CPU_GATHER_SUM
from umem.kernels.data.reduce import CPU_REDUCE

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 assembly")

LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"^\s+j\w+\s+(\.L\w+)")
ADD_F32, ADD_I64 = r"v?addps\s.*", r"v?paddq\s.*"
VECTOR_STORE = re.compile(r"^\s+v?mov[ua]p\w*\s+%[xyz]mm\d+, \S*\(")
STREAM_STORE = re.compile(r"^\s+v?movnt\w+\s+%[xyz]mm\d+, ")


def register() -> str:
    """Prefix of the widest vector register of this machine."""
    features = llvm.get_host_cpu_features()
    return "%zmm" if features.get("avx512f") else "%ymm" if features.get("avx2") else "%xmm"


@cache
def loops(kernel: CpuKernel) -> list[list[str]]:
    """The innermost loops of a kernel: instructions from a label to a jump back to it."""
    dispatcher = numba.njit(nogil=True, **OPTIONS)(kernel.body)
    dispatcher.compile(kernel.signature)
    lines = next(iter(dispatcher.inspect_asm().values())).splitlines()
    label_at, found = {}, []
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            label_at[label[1]] = number
        jump = JUMP.match(line)
        if jump and jump[1] in label_at:
            found.append((label_at[jump[1]], number))
    inner = [a for a in found if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in found)]
    return [lines[begin : end + 1] for begin, end in inner]


def count(loop: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in loop)


def test_each_width_of_a_pooled_look_up_is_a_loop_that_stores_nothing():
    accumulator = re.compile(r"v?addps\s.*\), .*(" + register() + r"\d+)$")
    widths = set()
    for loop in loops(CPU_GATHER_SUM["f32"]):
        accumulators = {match[1] for line in loop if (match := accumulator.search(line))}
        if not stores(loop):
            widths.add(len(accumulators))
    assert widths >= {1, 2, 4, 8, 16}


def test_a_sum_of_many_sources_accumulates_in_registers():
    add = ADD_F32 + register()
    assert any(count(loop, add) >= 4 and not stores(loop) for loop in loops(CPU_REDUCE["f32"]))


def stores(loop: list[str]) -> int:
    return count(loop, VECTOR_STORE.pattern) + count(loop, STREAM_STORE.pattern)


def test_a_sum_of_two_sources_is_vectors_ordinary_or_streamed():
    add = ADD_F32 + register()
    summing = [loop for loop in loops(CPU_REDUCE["f32"]) if count(loop, add) and stores(loop)]
    streamed = [count(loop, STREAM_STORE.pattern) for loop in summing]
    assert any(streamed) and not all(streamed)


def test_a_large_copy_streams_four_vectors_at_a_time():
    streaming = [count(loop, STREAM_STORE.pattern) for loop in loops(cpu_copy)]
    assert max(streaming) >= 4
    assert any(count(loop, register()) for loop in loops(cpu_copy))


def test_reading_adds_vectors_and_a_chase_is_one_load_a_step():
    assert any(count(loop, ADD_I64 + register()) >= 4 for loop in loops(cpu_sum_words))
    chase = min(loops(cpu_chase), key=len)
    assert not any(count(loop, "%[xyz]mm") for loop in loops(cpu_chase))
    assert count(chase, r"\(%r\w+,%r\w+,8\)") >= 1
