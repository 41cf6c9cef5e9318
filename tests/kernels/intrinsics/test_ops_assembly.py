"""The machine code: plain loops vectorise, vector forms fill registers, atomics are single instructions."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from typing import Any

import pytest

from umem.kernels import (
    CpuKernel,
    access,
    compare_swap_i64,
    cpu_kernel,
    exchange_i64,
    fence_acquire,
    fence_after_atomic,
    fence_release,
    fence_seq_cst,
    fetch_add_i64,
    fetch_and_i64,
    fetch_or_i64,
    load_acquire_i64,
    load_relaxed_i64,
    pause,
    stream_fence,
    vec_add_f32,
    vec_fma_f32,
    vec_lanes_f32,
    vec_load_f32,
    vec_store_f32,
    vec_stream_f32,
)
from umem.kernels.intrinsics import scalar
from umem.kernels.intrinsics.lower_vector import cpu_features, cpu_register_bytes

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "fma" not in cpu_features(),
    reason="reads x86-64 code with AVX2 and FMA",
)

WIDE = {64: "zmm", 32: "ymm"}
PACKED_ADD = {"f32": "addps", "f64": "addpd", "i32": "paddd", "i64": "paddq"}


def assembly(kernel: CpuKernel) -> str:
    """Machine code of the kernel itself, without the wrapper that Python calls."""
    functions = re.split(r"\n(?=\w+:\n)", kernel.assembly())
    return next(part for part in functions if part.startswith("_ZN") and not part.startswith("_ZN7cpython"))


def plain_loop(element: str) -> Callable[..., None]:
    load, store = getattr(scalar, f"load_{element}"), getattr(scalar, f"store_{element}")

    def body(dst, a, b, num_elements):
        i = 0
        while i < num_elements:
            store(dst, i, load(a, i) + load(b, i))
            i += 1

    return body


def test_the_fence_of_a_space_orders_stores_before_loads() -> None:
    code = assembly(access.fence)
    assert "mfence" in code or re.search(r"\block\b.*\n?.*orl", code), code


@pytest.mark.parametrize("element", list(PACKED_ADD))
def test_a_plain_loop_vectorises(element: str) -> None:
    code = assembly(cpu_kernel("void(int64, int64, int64, int64)")(plain_loop(element)))
    assert re.search(rf"v{PACKED_ADD[element]}.*[yz]mm", code), code


@pytest.mark.parametrize("element", ["i8", "u8", "i16", "u16"])
def test_a_plain_loop_of_small_integers_vectorises(element: str) -> None:
    load, store = getattr(scalar, f"load_{element}"), getattr(scalar, f"store_{element}")

    def body(dst, src, num_elements):
        i = 0
        while i < num_elements:
            store(dst, i, load(src, i) ^ 5)
            i += 1

    code = assembly(cpu_kernel("void(int64, int64, int64)")(body))
    assert re.search(r"v(xorps|pxor|pternlog).*[yz]mm", code), code


def test_vector_forms_fill_the_registers() -> None:
    @cpu_kernel("void(int64, int64, int64)")
    def kernel(dst, src, num_elements):
        i = 0
        while i < num_elements:
            a = vec_load_f32(src, i)
            vec_store_f32(dst, i, vec_fma_f32(a, a, vec_add_f32(a, a)))
            i += vec_lanes_f32()

    code = assembly(kernel)
    assert re.search(rf"vfm\w+ps.*{WIDE[cpu_register_bytes()]}", code), code
    assert "call" not in code


def test_streamed_stores_are_nontemporal() -> None:
    @cpu_kernel("void(int64, int64)")
    def kernel(dst, src):
        vec_stream_f32(dst, 0, vec_load_f32(src, 0))
        stream_fence()

    code = assembly(kernel)
    assert re.search(r"v?movntps", code), code
    assert "sfence" in code


def one(intrinsic: Any, *values: int) -> CpuKernel:
    """A kernel that does one ordered access."""
    num_values = len(values)

    def load(base):
        return intrinsic(base, 0)

    def update(base):
        return intrinsic(base, 0, 1)

    def swap(base):
        return intrinsic(base, 0, 1, 2)

    return cpu_kernel("int64(int64)")((load, update, swap)[num_values])


def test_atomics_are_single_locked_instructions() -> None:
    assert re.search(r"lock\s+xadd", assembly(one(fetch_add_i64, 1)))
    assert re.search(r"lock\s+cmpxchg", assembly(one(compare_swap_i64, 1, 2)))
    assert "xchg" in assembly(one(exchange_i64, 1))  # locked by itself
    for update in (fetch_or_i64, fetch_and_i64):  # their old value takes a loop of cmpxchg
        assert re.search(r"lock\s+cmpxchg", assembly(one(update, 1)))


def test_ordered_loads_are_one_move() -> None:
    for load in (load_acquire_i64, load_relaxed_i64):
        code = assembly(one(load))
        assert "call" not in code and "lock" not in code and "mfence" not in code


def test_only_the_strong_fence_costs_an_instruction() -> None:
    def around(fence: Callable[[], None]) -> str:
        @cpu_kernel("void(int64)")
        def kernel(base):
            scalar.store_i64(base, 0, 1)
            fence()
            scalar.store_i64(base, 0, 2)

        return assembly(kernel)

    strong = r"mfence|lock\s+or"
    assert re.search(strong, around(fence_seq_cst))
    for fence in (fence_acquire, fence_release, fence_after_atomic):
        code = around(fence)
        assert not re.search(strong, code)
        assert len(re.findall(r"movq\s+\$[12],|movl\s+\$[12],", code)) == 2  # both stores remain


def test_pause_is_the_pause_instruction() -> None:
    @cpu_kernel("void()")
    def kernel():
        pause()

    assert re.search(r"\bpause\b", assembly(kernel))
