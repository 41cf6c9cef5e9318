"""Threads of one rank write ranges and add to words between them, while other ranks do the same: nothing is lost.

A range is written under the pin of a group of slots; adds, evictions and other ranks must wait for it.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import umem
from umem.bench.parts import coherence_loops as loops

WORDS_A_RANK = 400  # of 8 bytes: neither a multiple of a line nor of a group of 32
NUM_COUNTERS = 4
DEADLINE_S = 60.0


def settled(space, loop, *arguments):
    """Run a loop of accesses to its end, as whoever calls kernels does."""
    *arguments, last = arguments
    position = 0

    def step():
        nonlocal position
        code, position, *_ = loop(space.cache.address, *arguments, position, last)
        return code

    space.cache.until_ok(step, timeout_s=DEADLINE_S)
    assert position == last


def work(space, line, num_rounds):
    """Each rank has a range of the block, one counter before each; returns how many words were not what was written."""
    counters = [rank * (WORDS_A_RANK + 1) for rank in range(space.num_ranks)]
    block = space.shared(
        "block", len(counters) * (WORDS_A_RANK + 1), "int64", home=0, cache="back", line=line
    )
    first = counters[space.rank] + 1
    own = np.zeros(WORDS_A_RANK, np.int64)
    for loop in (loops.copy_each, loops.add_each):
        loop.load()
    space.barrier()

    def add():
        for _ in range(num_rounds):
            for counter in counters:
                settled(space, loops.add_each, block.address_of(counter), 0, 0, 5)

    sibling = threading.Thread(target=add)
    sibling.start()
    num_lost = 0
    for number in range(1, num_rounds + 1):
        own[:] = number
        settled(
            space, loops.copy_each, loops.WORK_WRITE, block.address_of(first), own.ctypes.data, own.nbytes, 1
        )
        found = np.zeros_like(own)
        space.get(found, block.address_of(first))
        num_lost += int((found != number).sum())
    sibling.join(DEADLINE_S)
    assert not sibling.is_alive()
    space.barrier()
    words = np.zeros(len(counters) * (WORDS_A_RANK + 1), np.int64)
    space.get(words, block.address)
    space.barrier()
    return num_lost, words.tolist()


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("line", "line_cache"), [(64, "1M"), (128, "16K"), (4096, "1M"), (128, "1K")], ids=str
)
def test_ranges_and_adds_of_siblings_lose_nothing(ranks, line, line_cache, soak_factor):
    num_rounds = 500 * soak_factor
    told = umem.launch(
        work,
        ranks=ranks,
        line_cache=line_cache,
        segment="64M",
        timeout_s=DEADLINE_S,
        results="all",
        args=(line, num_rounds),
    )
    for rank, (num_lost, words) in enumerate(told):
        assert num_lost == 0, f"rank {rank}: {num_lost} words were lost"
        for owner in range(ranks):
            counter, *written = words[owner * (WORDS_A_RANK + 1) : (owner + 1) * (WORDS_A_RANK + 1)]
            assert counter == 5 * num_rounds * ranks, f"rank {rank}: counter {owner} is {counter}"
            assert set(written) == {num_rounds}, f"rank {rank}: range {owner} has {sorted(set(written))}"
