"""Several ranks, as processes of their own, allocate from one arena at the same time."""

from __future__ import annotations

import ctypes
import time

import pytest

from tests.kernels.forked import SharedWords, meet, run_ranks
from tests.kernels.heap.heap_memory import BASE, HeapMemory
from umem.kernels import (
    compare_swap_i64,
    cpu_kernel,
    device_function,
    load_acquire_i64,
    load_i64,
    status,
    store_i64,
    store_release_i64,
    yield_cpu,
)
from umem.kernels.heap import entries
from umem.kernels.heap.layout import BLOCK_BYTES, GRANULE_LOG2
from umem.kernels.heap.usage import USAGE_LONGEST_RUN

OVERLAP = 1
FAILED_ALLOC = 2
FAILED_FREE = 3


@device_function
def mark(marks, address, num_bytes, old, new):
    """Change the mark of every granule from `old` to `new`; OVERLAP where one was not `old`."""
    granule = (address - BASE) >> GRANULE_LOG2
    end = (address + num_bytes - BASE + 63) >> GRANULE_LOG2
    while granule < end:
        if compare_swap_i64(marks, granule, old, new) != old:
            return OVERLAP
        granule += 1
    return status.OK


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def churn(control, arena, magazine, marks, live, num_live, max_log2, rounds, seed):
    """Allocate and free at random, then free all; OK or what went wrong.

    Every granule bears the mark `seed` while it is held: one that bears another was given out twice. Sizes
    are log-uniform from 64 to 1 << max_log2.
    """
    state = seed * 2 + 1
    step = 0
    while step < rounds + num_live:
        state = state * 6364136223846793005 + 1442695040888963407
        place = (state >> 33) & (num_live - 1) if step < rounds else step - rounds
        address = load_i64(live, 2 * place)
        if address != 0:
            if mark(marks, address, load_i64(live, 2 * place + 1), seed, 0) != status.OK:
                return OVERLAP
            if entries.free(control, arena, magazine, address) != status.OK:
                return FAILED_FREE
        if step < rounds:
            bits = 6 + (state >> 20) % (max_log2 - 6)
            num_bytes = (1 << bits) + (state >> 40) % (1 << bits)
            address = entries.alloc(control, arena, magazine, num_bytes, 64)
            if address <= status.AGAIN:
                return FAILED_ALLOC
            store_i64(live, 2 * place, address)
            store_i64(live, 2 * place + 1, num_bytes)
            if mark(marks, address, num_bytes, 0, seed) != status.OK:
                return OVERLAP
        step += 1
    return status.OK


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def pass_on(control, arena, magazine, mailbox, first, end, is_producer):
    """Allocate into the mailbox word, or free what stands there, as long as it is our turn; the step after."""
    step = first
    polls = 0
    while step < end and polls < 10_000:
        address = load_acquire_i64(mailbox, 0)
        polls += 1
        if (address == 0) == (is_producer != 0):
            polls = 0
            if is_producer:
                address = entries.alloc(control, arena, magazine, 64 + (step & 1023), 64)
                if address <= status.AGAIN:
                    return -FAILED_ALLOC
                store_release_i64(mailbox, 0, address)
            else:
                if entries.free(control, arena, magazine, address) != status.OK:
                    return -FAILED_FREE
                store_release_i64(mailbox, 0, 0)
            step += 1
        else:
            yield_cpu()
    return step


def all_is_free(memory: HeapMemory) -> None:
    """The ranks have ended: take back their magazines, and find one piece."""
    for rank in range(memory.num_ranks - 1):
        memory.announce_death(rank)
    memory.reclaim(memory.num_ranks - 1)
    memory.check()
    assert memory.live() == []
    assert memory.usage()[0][USAGE_LONGEST_RUN] == memory.num_blocks


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("max_log2", [10, 18], ids=["small", "mixed"])
def test_no_byte_is_given_out_twice(num_ranks, max_log2):
    memory = HeapMemory(num_blocks=64, num_ranks=num_ranks + 1)
    marks = SharedWords(memory.num_bytes >> GRANULE_LOG2)
    churn.load()
    rounds = 40_000 if max_log2 == 10 else 5_000

    def work(rank: int) -> int:
        memory.open(rank)
        live = SharedWords(2 * 256)
        common = memory.control(rank), memory.arena, memory.magazine(rank), marks.address
        return churn(*common, live.address, 256, max_log2, rounds, rank + 1)

    run_ranks(num_ranks, work)
    memory.check()
    all_is_free(memory)


def test_what_another_rank_frees_comes_back():
    memory = HeapMemory(num_blocks=2, num_ranks=3)
    mailbox = SharedWords(1)
    pass_on.load()

    def work(rank: int) -> int:
        memory.open(rank)
        words = memory.control(rank), memory.arena, memory.magazine(rank), mailbox.address
        step, deadline = 0, time.monotonic() + 60
        while 0 <= step < 20_000 and time.monotonic() < deadline:
            step = pass_on(*words, step, 20_000, rank == 0)
        return step != 20_000

    run_ranks(2, work)  # 20,000 allocations pass through 4 MiB
    all_is_free(memory)


def test_a_double_free_by_two_ranks_at_once_is_refused_to_one_of_them():
    memory = HeapMemory(num_blocks=4, num_ranks=3)
    addresses = [memory.alloc(2, 64) for _ in range(5_000)]
    block = (ctypes.c_int64 * len(addresses))(*addresses)
    refused, ready = SharedWords(2), SharedWords(2)

    def work(rank: int) -> None:
        memory.open(rank)
        common = memory.control(rank), memory.arena, memory.magazine(rank)
        mine = (ctypes.c_int64 * len(addresses))(*block)
        meet(ready, rank, 2)
        item = 0
        while item < len(mine):
            item = entries.free_batch(*common, ctypes.addressof(mine), item, len(mine))
            if item < len(mine):
                refused.words[rank] += 1
                item += 1

    run_ranks(2, work)
    assert sum(refused.words) == len(addresses), "each address was freed once and refused once"
    memory.flush(2)
    all_is_free(memory)


def test_ranks_that_fill_the_memory_at_once_share_all_of_it():
    memory = HeapMemory(num_blocks=8, num_ranks=3)
    taken = SharedWords(2)

    def work(rank: int) -> None:
        memory.open(rank)
        while memory.alloc(rank, BLOCK_BYTES // 4) > 0:
            taken.words[rank] += 1

    run_ranks(2, work)
    assert sum(taken.words) == 8 * 4
    memory.check()
    for rank in (0, 1):
        memory.announce_death(rank)
    allocations, num_bytes, _ = memory.reclaim(2)
    assert (allocations, num_bytes) == (32, memory.num_bytes)
    assert memory.alloc(2, memory.num_bytes) == BASE


def test_what_is_reclaimed_is_told_as_usage_had_it():
    """Slots that a dead rank kept in its magazines were nobody's allocations."""
    memory = HeapMemory(num_blocks=8, num_ranks=3)
    addresses = [memory.alloc(0, size) for size in (64, 64, 700, 1 << 16, BLOCK_BYTES)]
    assert memory.free(0, addresses[0]) == status.OK
    count, slot_bytes, _, _ = memory.usage()[1][0]
    num_kept = len(memory.stock(0))
    assert count == 4 and num_kept > 0
    memory.announce_death(0)
    assert memory.reclaim(2) == [count, slot_bytes, num_kept]
    assert memory.reclaim(2) == [0, 0, 0], "once"
