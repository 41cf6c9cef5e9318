"""Waiting, time, bits, bulk copy and calls out of compiled code, compiled and in plain Python."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.kernel_memory import Buffer
from umem.kernels import (
    c_callback,
    call_handler,
    copy_bytes,
    count_leading_zeros_u64,
    count_ones_u64,
    count_trailing_zeros_u64,
    cpu_kernel,
    cycles,
    futex_wait,
    futex_wake,
    load_acquire_u32,
    multiply_high_u64,
    now_ns,
    pause,
    prefetch,
    stream_fence,
    thread_pointer,
    thread_stripe,
    yield_cpu,
)
from umem.kernels.build.direct_memory import compiled

MASK = (1 << 64) - 1
WORDS = [0, 1, 2, 3, 1 << 31, 1 << 32, 1 << 63, MASK, MASK - 1, 0x0123456789ABCDEF, 0x8000000080000000]
WAIT_NS = 20_000_000_000


@pytest.mark.parametrize("form", ["plain", "compiled"])
@pytest.mark.parametrize("value", WORDS, ids=hex)
def test_bit_counts(form: str, value: int) -> None:
    def pick(intrinsic: Callable[..., int]) -> Callable[..., int]:
        return intrinsic if form == "plain" else compiled(intrinsic.__name__)

    text = f"{value:064b}"
    assert pick(count_leading_zeros_u64)(value) == len(text) - len(text.lstrip("0"))
    assert pick(count_trailing_zeros_u64)(value) == len(text) - len(text.rstrip("0"))
    assert pick(count_ones_u64)(value) == text.count("1")
    for other in WORDS:
        assert pick(multiply_high_u64)(value, other) == value * other >> 64


@pytest.mark.parametrize("form", ["plain", "compiled"])
@pytest.mark.parametrize("num_bytes", [0, 1, 7, 64, 4097])
def test_copy_bytes_writes_exactly_its_range(form: str, num_bytes: int) -> None:
    copy = copy_bytes if form == "plain" else compiled("copy_bytes")
    source, target = Buffer(8192), Buffer(8192)
    content = np.random.default_rng(1).integers(1, 256, 8192, dtype=np.uint8).tobytes()
    source.write(content)
    copy(target.address + 3, source.address + 5, num_bytes)
    assert target.read() == bytes(3) + content[5 : 5 + num_bytes] + bytes(8192 - 3 - num_bytes)


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_now_is_the_monotonic_clock(form: str) -> None:
    clock = now_ns if form == "plain" else compiled("now_ns")
    before = time.monotonic_ns()
    first, second = clock(), clock()
    assert before <= first <= second <= time.monotonic_ns()


def test_cycles_go_forward() -> None:
    assert cycles() < cycles()


def test_hints_change_nothing_and_take_any_address() -> None:
    buffer = Buffer(64)
    for call in (pause, yield_cpu, stream_fence):
        call()
        compiled(call.__name__)()
    for address in (0, buffer.address, 1 << 46):
        prefetch(address)
        compiled("prefetch")(address)
    assert buffer.read() == bytes(64)


def test_thread_pointers_tell_threads_apart() -> None:
    seen = [thread_pointer(), thread_pointer()]
    other = threading.Thread(target=lambda: seen.append(thread_pointer()))
    other.start()
    other.join()
    assert seen[0] == seen[1] != seen[2]


def test_threads_that_live_at_once_differ_in_their_stripes() -> None:
    num_threads, num_stripes = 8, 64
    everyone = threading.Barrier(num_threads)
    seen = []

    def note() -> None:
        everyone.wait()
        assert thread_stripe() == compiled("thread_stripe")() == thread_stripe()
        seen.append(thread_stripe() % num_stripes)

    threads = [threading.Thread(target=note) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) > num_threads // 2


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_call_handler_passes_arguments_and_result(form: str) -> None:
    call: Any = call_handler if form == "plain" else compiled("call_handler")

    @c_callback("int64(int64, int64, int64)")
    def weigh(request, reply, context):
        return request + 10 * reply + 100 * context

    assert call(weigh.address, 1, 2, 3) == 321
    assert call(weigh.address, -1, 0, 0) == -1
    assert weigh.ctypes(4, 5, 6) == 654


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_futex_wait_says_why_it_came_back(form: str) -> None:
    wait = futex_wait if form == "plain" else compiled("futex_wait")
    buffer = Buffer(64)
    assert wait(buffer.address, 1, 0) == -errno.EAGAIN  # the word is 0, not 1
    assert wait(buffer.address, 0, 1_000_000) == -errno.ETIMEDOUT
    assert wait(buffer.address, 0, -1) == -errno.ETIMEDOUT  # a deadline that has passed
    assert futex_wake(buffer.address, 1) == 0  # nobody sleeps


@cpu_kernel("int64(int64, int64)")
def sleep_until_changed(word, timeout_ns):
    """Sleep on the u32 at `word` while it is 0; its value, or -1 after the deadline."""
    deadline_ns = now_ns() + timeout_ns
    while load_acquire_u32(word, 0) == 0:
        left_ns = deadline_ns - now_ns()
        if left_ns <= 0:
            return -1
        futex_wait(word, 0, left_ns)
    return load_acquire_u32(word, 0)


def test_a_futex_wakes_a_sleeper_in_another_process() -> None:
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    view = np.frombuffer(shared, np.uint32)
    address = view.ctypes.data
    sleep_until_changed.load()
    wake = compiled("futex_wake")
    child = os.fork()
    if child == 0:
        os._exit(int(sleep_until_changed(address, WAIT_NS)) & 0xFF)
    deadline = time.monotonic() + WAIT_NS / 1e9
    while wake(address, 1) != 1:  # a spurious wake-up: the word is unchanged, so the child sleeps again
        assert time.monotonic() < deadline, "the child never slept"
        os.sched_yield()
    view[0] = 42
    wake(address, 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42
