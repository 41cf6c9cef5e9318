"""Atomics under contention: two processes on one shared mapping lose nothing."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from umem.kernels import (
    CpuKernel,
    compare_swap_i64,
    cpu_kernel,
    device_function,
    exchange_u32,
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_u32,
    now_ns,
    pause,
    store_i64,
    store_release_i64,
    store_release_u32,
    yield_cpu,
)
from umem.kernels.intrinsics import scalar

NUM_ROUNDS = 1_000
BURST = 20  # updates between two meetings
NUM_SECTIONS = 20_000
SPINS_BEFORE_YIELD = 100
FLAGS = 32  # word index; each lane's flag has a line of its own
DEADLINE_NS = 30_000_000_000


@pytest.fixture
def shared() -> Iterator[np.ndarray]:
    """64 zeroed words that forked children share."""
    yield np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)[:64]


def in_two_processes(work: Callable[[int], int]) -> None:
    """Run work(0) and work(1) at once, each in a process and, where there are two, on a core of its own;
    both must return 0."""
    cores = sorted(os.sched_getaffinity(0))
    children = []
    for lane in range(2):
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {cores[lane % len(cores)]})
            os._exit(int(work(lane)))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@device_function
def meet(words, lane, round_number):
    """Wait until the other lane is in this round too, so that both really run at once; 1 if it never is.

    By flags of one writer each, so that it works even if an atomic under test does not.
    """
    store_release_i64(words, FLAGS + 16 * lane, round_number)
    deadline_ns = now_ns() + DEADLINE_NS
    spins = 0
    while load_acquire_i64(words, FLAGS + 16 * (1 - lane)) < round_number:
        spins += 1
        if spins % SPINS_BEFORE_YIELD == 0:
            yield_cpu()
            if now_ns() > deadline_ns:
                return 1
    return 0


def adder(add: Callable[..., Any], first: int, then: Callable[..., Any], second: int) -> CpuKernel:
    """Bursts of add(first) and then(second) on word 0 by both lanes at the same time."""

    def body(words, lane, num_rounds, burst):
        round_number = 1
        while round_number <= num_rounds:
            if meet(words, lane, round_number):
                return 1
            i = 0
            while i < burst:
                add(words, 0, first)
                then(words, 0, second)
                i += 1
            round_number += 1
        return 0

    return cpu_kernel("int64(int64, int64, int64, int64)")(body)


@pytest.mark.parametrize("element", ["i32", "u32", "i64", "u64"])
@pytest.mark.parametrize("variant", ["fetch_add", "fetch_add_relaxed"])
def test_sums_of_fetch_add_are_exact(variant: str, element: str, shared: np.ndarray) -> None:
    add = getattr(scalar, f"{variant}_{element}")
    kernel = adder(add, 3, add, -1)
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, lane, NUM_ROUNDS, BURST))
    kind = f"{'int' if element[0] == 'i' else 'uint'}{element[1:]}"
    assert shared.view(kind)[0] == 2 * NUM_ROUNDS * BURST * 2


@pytest.mark.parametrize("element", ["f32", "f64"])
def test_sums_of_float_fetch_add_are_exact(element: str, shared: np.ndarray) -> None:
    add = getattr(scalar, f"fetch_add_{element}")
    kernel = adder(add, 1, add, 2)
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, lane, NUM_ROUNDS, BURST))
    assert shared.view(f"float{element[1:]}")[0] == 2 * NUM_ROUNDS * BURST * 3  # below 2**24: exact in f32


@pytest.mark.parametrize("element", ["i32", "u32", "i64", "u64"])
def test_or_and_and_touch_only_their_bits(element: str, shared: np.ndarray) -> None:
    """Each lane sets and clears bits of its own; nobody ever loses one."""
    set_bits, clear_bits = getattr(scalar, f"fetch_or_{element}"), getattr(scalar, f"fetch_and_{element}")

    def body(words, lane, num_rounds, burst):
        mine = 0xFF << (8 * lane)
        round_number = 1
        while round_number <= num_rounds:
            if meet(words, lane, round_number):
                return 1
            i = 0
            while i < burst:
                if set_bits(words, 0, mine) & mine != 0:
                    return 2
                if clear_bits(words, 0, ~mine) & mine != mine:
                    return 3
                i += 1
            round_number += 1
        return 0

    kernel = cpu_kernel("int64(int64, int64, int64, int64)")(body)
    kernel.load()
    in_two_processes(lambda lane: kernel(shared.ctypes.data, lane, NUM_ROUNDS, BURST))
    assert shared[0] == 0


@cpu_kernel("int64(int64, int64, int64)")
def count_under_swap_lock(words, lane, num_sections):
    """A lock by compare_swap; the counter behind it is plain memory."""
    if meet(words, lane, 1):
        return 1
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
    if meet(words, lane, 1):
        return 1
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
    kernel = adder(fetch_add_i64, 3, fetch_add_i64, -1)
    kernel.load()
    for warm in (fetch_add_i64, store_release_i64):  # their compiled forms are loaded before the fork
        warm(shared.ctypes.data, 1, 0)
    load_acquire_i64(shared.ctypes.data, 1)

    def work(lane: int) -> int:
        run = kernel if lane == 0 else kernel.body
        return run(shared.ctypes.data, lane, NUM_ROUNDS, BURST)

    in_two_processes(work)
    assert shared[0] == 2 * NUM_ROUNDS * BURST * 2
