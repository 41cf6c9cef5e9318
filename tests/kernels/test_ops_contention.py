"""Atomics under contention: two processes on one shared mapping lose nothing."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from umem.kernels import (
    compare_swap_i64,
    cpu_kernel,
    exchange_u32,
    fetch_add_i64,
    load_i64,
    load_relaxed_i64,
    load_relaxed_u32,
    ops,
    pause,
    store_i64,
    store_release_i64,
    store_release_u32,
    yield_cpu,
)

NUM_ROUNDS = 100_000
NUM_SECTIONS = 20_000
SPINS_BEFORE_YIELD = 100


@pytest.fixture
def shared() -> Iterator[np.ndarray]:
    """64 zeroed words that forked children share."""
    yield np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)[:64]


def in_two_processes(work: Callable[[int], int]) -> None:
    """Run work(0) and work(1) at once, each in a process of its own; both must return 0."""
    children = []
    for lane in range(2):
        child = os.fork()
        if child == 0:
            os._exit(int(work(lane)))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def meet(words):
    """Wait until both processes are here, so that they really run at once."""
    fetch_add_i64(words, 32, 1)
    spins = 0
    while load_relaxed_i64(words, 32) < 2:
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            yield_cpu()


def adder(element: str) -> Callable[[int, int], int]:
    add = getattr(ops, f"fetch_add_{element}")
    add_relaxed = getattr(ops, f"fetch_add_relaxed_{element}")

    def body(words, num_rounds):
        i = 0
        while i < num_rounds:
            add(words, 0, 3)
            add_relaxed(words, 0, -1)
            i += 1
        return 0

    return body


@pytest.mark.parametrize("element", ["i32", "u32", "i64", "u64"])
def test_sums_of_fetch_add_are_exact(element: str, shared: np.ndarray) -> None:
    kernel = cpu_kernel("int64(int64, int64)")(adder(element))
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, NUM_ROUNDS))
    assert shared.view(f"{'int' if element[0] == 'i' else 'uint'}{element[1:]}")[0] == 4 * NUM_ROUNDS


@pytest.mark.parametrize("element", ["f32", "f64"])
def test_sums_of_float_fetch_add_are_exact(element: str, shared: np.ndarray) -> None:
    add = getattr(ops, f"fetch_add_{element}")

    def body(words, num_rounds):
        i = 0
        while i < num_rounds:
            add(words, 0, 1.0)
            i += 1
        return 0

    kernel = cpu_kernel("int64(int64, int64)")(body)
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, NUM_ROUNDS))
    assert shared.view(f"float{element[1:]}")[0] == 2 * NUM_ROUNDS  # below 2**24: exact in f32


@pytest.mark.parametrize("element", ["i32", "u32", "i64", "u64"])
def test_or_and_and_touch_only_their_bits(element: str, shared: np.ndarray) -> None:
    """Each process sets and clears bits of its own; nobody ever loses one."""
    set_bits, clear_bits = getattr(ops, f"fetch_or_{element}"), getattr(ops, f"fetch_and_{element}")

    def body(words, lane, num_rounds):
        mine = 0xFF << (8 * lane)
        i = 0
        while i < num_rounds:
            if set_bits(words, 0, mine) & mine != 0:
                return 1
            if clear_bits(words, 0, ~mine) & mine != mine:
                return 2
            i += 1
        return 0

    kernel = cpu_kernel("int64(int64, int64, int64)")(body)
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, lane, NUM_ROUNDS))
    assert shared[0] == 0


@cpu_kernel("int64(int64, int64, int64)")
def count_under_swap_lock(words, lane, num_sections):
    """A lock by compare_swap; the counter behind it is plain memory."""
    i = 0
    while i < num_sections:
        spins = 0
        while compare_swap_i64(words, 0, 0, lane + 1) != 0:
            pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD:
                yield_cpu()
        store_i64(words, 8, load_i64(words, 8) + 1)
        store_release_i64(words, 0, 0)
        i += 1
    return 0


@cpu_kernel("int64(int64, int64, int64)")
def count_under_exchange_lock(words, lane, num_sections):
    """A lock by exchange on a u32; the counter behind it is plain memory."""
    i = 0
    while i < num_sections:
        spins = 0
        while load_relaxed_u32(words, 0) != 0 or exchange_u32(words, 0, 1) != 0:
            pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD:
                yield_cpu()
        store_i64(words, 8, load_i64(words, 8) + 1)
        store_release_u32(words, 0, 0)
        i += 1
    return 0


@pytest.mark.parametrize("kernel", [count_under_swap_lock, count_under_exchange_lock])
def test_a_lock_protects_plain_memory(kernel, shared: np.ndarray) -> None:
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, lane, NUM_SECTIONS))
    assert shared[8] == 2 * NUM_SECTIONS
    assert shared[0] == 0


def test_plain_python_is_atomic_against_compiled_code(shared: np.ndarray) -> None:
    """The default machine's fetch_add is the real instruction, not a load and a store."""
    kernel = cpu_kernel("int64(int64, int64)")(adder("i64"))
    kernel.load()
    fetch_add_i64(shared.ctypes.data, 1, 0)  # its compiled form is loaded before the fork
    num_python_rounds = 20_000

    def work(lane: int) -> int:
        meet(shared.ctypes.data)
        if lane == 0:
            return kernel(shared.ctypes.data, 50 * num_python_rounds)
        for _ in range(num_python_rounds):
            fetch_add_i64(shared.ctypes.data, 0, 1)
        return 0

    in_two_processes(work)
    assert shared[0] == 2 * 50 * num_python_rounds + num_python_rounds
