"""Signals: what is posted is seen, no wake-up is lost, and a wait ends for every reason that it names."""

from __future__ import annotations

import os
import time

import pytest

from tests.kernels.ranks import SLEEP_AT_ONCE, SPIN, Pages, run_threads
from umem.kernels import cpu_kernel, load_i64, store_i64
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.elements import Element
from umem.kernels.page import control as layout
from umem.kernels.page import signal as kernels
from umem.kernels.status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK

AT_LEAST, EXACTLY = 0, 1
LONG_NS, SHORT_NS = 20_000_000_000, 1_000_000
LOST_WAKE_S = 10  # half of LONG_NS: a waiter that nobody woke sleeps all of it

both_waits = pytest.mark.parametrize("spin_rounds", [SPIN, SLEEP_AT_ONCE], ids=["awake", "asleep"])


def wait(pages: Pages, value: int, exactly: int = AT_LEAST, epoch: int = 0, slice_ns: int = SHORT_NS) -> int:
    return kernels.cpu_wait_signal(pages.control(0), pages.scratch, value, exactly, epoch, slice_ns)


def mark_of(pages: Pages) -> int:
    return int(pages.words[pages.num_ranks, 0]) & 1


def until_somebody_sleeps(pages: Pages) -> None:
    """Poll for the sleeper mark; the test's own timeout is the deadline."""
    while not mark_of(pages):
        os.sched_yield()


@both_waits
def test_wait_ends_at_the_value_or_beyond_it(spin_rounds):
    pages = Pages(1, spin_rounds)
    assert wait(pages, 0) == OK
    assert wait(pages, 1) == AGAIN
    kernels.cpu_post(pages.scratch, 5)
    assert kernels.cpu_signal_value(pages.scratch) == 5
    assert [wait(pages, 4), wait(pages, 5), wait(pages, 6)] == [OK, OK, AGAIN]
    assert [wait(pages, 4, EXACTLY), wait(pages, 5, EXACTLY)] == [AGAIN, OK]


def test_the_sleeper_mark_is_not_part_of_the_value():
    pages = Pages(1, SLEEP_AT_ONCE)
    kernels.cpu_post(pages.scratch, 7)
    while not mark_of(pages):  # a slice may be over before its rank has come to sleep
        assert wait(pages, 8) == AGAIN
    assert kernels.cpu_signal_value(pages.scratch) == 7
    assert kernels.cpu_post_add(pages.scratch, 2) == 7
    assert mark_of(pages) == 0
    assert kernels.cpu_signal_value(pages.scratch) == 9


@both_waits
def test_wait_ends_when_the_space_closes_or_a_rank_dies(spin_rounds):
    pages = Pages(1, spin_rounds)
    pages.words[0, layout.CONTROL_EPOCH] = 3
    assert wait(pages, 1, epoch=3) == AGAIN
    assert wait(pages, 1, epoch=2) == EPOCH_CHANGED
    pages.words[0, layout.CONTROL_STOP] = 1
    assert wait(pages, 1, epoch=3) == INTERRUPTED
    assert wait(pages, 0, epoch=2) == OK  # what is there already is no wait


@pytest.mark.parametrize("post", [kernels.cpu_post, kernels.cpu_post_add], ids=["post", "post_add"])
def test_a_post_wakes_all_who_sleep(post):
    pages = Pages(1, SLEEP_AT_ONCE)
    begin = time.monotonic()

    def work(place: int) -> int:
        if place < 3:
            return wait(pages, 1, slice_ns=LONG_NS)
        until_somebody_sleeps(pages)
        return post(pages.scratch, 1) or OK

    assert run_threads(4, work) == [OK] * 4
    assert time.monotonic() - begin < LOST_WAKE_S


def test_a_post_wakes_another_process():
    pages = Pages(1, SLEEP_AT_ONCE)
    kernels.cpu_post.load()
    kernels.cpu_wait_signal.load()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        until_somebody_sleeps(pages)
        kernels.cpu_post(pages.scratch, 1)
        os._exit(0)
    code = wait(pages, 1, slice_ns=LONG_NS)
    os.waitpid(child, 0)
    assert code == OK
    assert time.monotonic() - begin < LOST_WAKE_S


@both_waits
def test_posts_of_many_add_up(spin_rounds):
    pages, num_posters, num_posts = Pages(1, spin_rounds), 3, 300

    def work(place: int) -> int:
        if place == num_posters:
            return wait(pages, num_posters * num_posts, EXACTLY, slice_ns=LONG_NS)
        for _ in range(num_posts):
            kernels.cpu_post_add(pages.scratch, 1)
        return OK

    assert run_threads(num_posters + 1, work) == [OK] * (num_posters + 1)


@both_waits
def test_round_trips_over_signals_lose_no_wake_up(spin_rounds):
    pages, num_rounds = Pages(2, spin_rounds), 300
    deadline_ns = time.monotonic_ns() + LONG_NS
    ask, answer = pages.scratch, pages.scratch + kernels.SIGNAL_BYTES

    def work(side: int) -> int:
        control = pages.control(side)
        return kernels.cpu_signal_ping_pong(control, ask, answer, side, num_rounds, 0, deadline_ns)

    begin = time.monotonic()
    assert run_threads(2, work) == [num_rounds, num_rounds]
    assert time.monotonic() - begin < LOST_WAKE_S


def test_round_trips_on_one_word_complete_or_give_up():
    pages = Pages(1)
    assert kernels.cpu_ping_pong(pages.scratch, 0, 3, 1000) == 0
    pages.words[:] = 0
    assert run_threads(2, lambda side: kernels.cpu_ping_pong(pages.scratch, side, 20, 1 << 32)) == [20, 20]


@cpu_kernel("int64(int64, int64, int64, int64)")
def hand_over(control, base, side, num_rounds):
    """Side 0 writes a plain word and posts; side 1 reads it after its wait; rounds in which it differed."""
    wrong = 0
    i = 1
    while i <= num_rounds:
        if side == 0:
            store_i64(base, 64, i * 7)
            kernels_post(base, i)
            if kernels_wait(control, base + 128, i, 0, 0, 20_000_000_000) != 0:
                return -1
        else:
            if kernels_wait(control, base, i, 0, 0, 20_000_000_000) != 0:
                return -1
            if load_i64(base, 64) != i * 7:
                wrong += 1
            kernels_post(base + 128, i)
        i += 1
    return wrong


kernels_post, kernels_wait = kernels.post, kernels.wait_signal


@both_waits
def test_what_was_stored_before_a_post_is_seen_after_the_wait(spin_rounds):
    pages = Pages(2, spin_rounds)
    assert run_threads(2, lambda side: hand_over(pages.control(side), pages.scratch, side, 300)) == [0, 0]


class Interleaving(machine.Machine):
    """One signal at address 0. A post of 1 happens in the middle of a waiter's run.

    The exchange comes before the waiter's `exchange_at`-th access and the wake-up it decided on before the
    `wake_at`-th, so every order of the poster's two steps among the waiter's can be played.
    """

    def __init__(self, exchange_at: int, wake_at: int):
        self.word, self.accesses, self.exchange_at, self.wake_at = 0, 0, exchange_at, wake_at
        self.old: int | None = None
        self.woken = self.lost = False

    def step(self) -> None:
        if self.accesses == self.exchange_at:
            self.old, self.word = self.word, 1 << 1
        if self.accesses == self.wake_at:
            self.woken = bool(self.old is not None and self.old & 1)
        self.accesses += 1

    def load(self, address: int, element: Element, ordering: object) -> int:
        self.step()
        return self.word

    def rmw(self, operation: str, address: int, element: Element, operands: tuple, ordering: object) -> int:
        self.step()
        old, self.word = self.word, machine.new_value(operation, element, self.word, operands)
        return old

    def futex_wait(self, address: int, expected: int, timeout_ns: int) -> int:
        self.step()
        if self.word & 0xFFFFFFFF == expected:
            wake_is_to_come = self.wake_at >= self.accesses and bool(self.word & 1 or (self.old or 0) & 1)
            self.lost = self.exchange_at < self.accesses and not wake_is_to_come
        return 0


def test_no_order_of_a_post_and_a_wait_loses_the_wake_up():
    slept = 0
    for exchange_at in range(5):
        for wake_at in range(exchange_at, 5):
            memory = Interleaving(exchange_at, wake_at)
            with machine.use(memory):
                kernels.sleep_below(0, 1, AT_LEAST, 1000)
            assert not memory.lost, (exchange_at, wake_at)
            slept += memory.accesses == 3
    assert slept  # the search reached the futex


def test_signals_as_plain_python():
    pages = Pages(1, SLEEP_AT_ONCE)
    kernels.post(pages.scratch, 3)
    assert kernels.post_add(pages.scratch, 2) == 3
    assert kernels.signal_value(pages.scratch) == 5
    assert kernels.wait_signal(pages.control(0), pages.scratch, 5, EXACTLY, 0, SHORT_NS) == OK
    assert kernels.wait_signal(pages.control(0), pages.scratch, 6, AT_LEAST, 0, SHORT_NS) == AGAIN


cuda_post, cuda_post_add, cuda_wait = kernels.CUDA.post, kernels.CUDA.post_add, kernels.CUDA.wait_signal


def cuda_user(out, control, signal):
    """A kernel that posts and waits."""
    cuda_post(signal, 1)
    cuda_post_add(signal, 1)
    store_i64(out, 0, cuda_wait(control, signal, 2, 0, 0, 1000))


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_signals_assemble_for_cuda_with_system_scope(cc):
    ptx, _ = cuda_ptx(cuda_user, "void(int64, int64, int64)", cc=cc)
    assert "atom.acq_rel.sys" in ptx and "ld.acquire.sys" in ptx
    assert cuda_cubin(ptx, cc)
