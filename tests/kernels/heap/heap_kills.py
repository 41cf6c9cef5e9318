"""Kills a real process inside the heap, under the faults build; run as a script by test_heap_kills.py.

Argument: how many kills. The rank works alone, so that each kill meets the same run; beside others: heap_soak.py.
"""

from __future__ import annotations

import ctypes
import random
import signal
import sys

from tests.kernels.forked import SharedWords, end_of, start_rank
from tests.kernels.heap.heap_memory import BASE, HeapMemory
from umem.kernels import status
from umem.kernels.heap.layout import BLOCK_BYTES
from umem.kernels.intrinsics import faults

VICTIM, PARTNER, CLERK = 0, 1, 2  # the victim also acts for its partner
NUM_RANKS = 3
SIZES = (64, 700, 700, 5000, 40_000, 300_000, BLOCK_BYTES)
WRONG = 3  # exit code of a victim that found something wrong


def work(memory: HeapMemory, rank: int, rounds: int, seed: int) -> int:
    """Allocate, free, hold and flush at random, then free all."""
    rng = random.Random(seed)
    live: list[tuple[int, int]] = []
    for _ in range(rounds):
        if live and rng.random() < 0.5:
            address, num_bytes = live.pop(rng.randrange(len(live)))
            if rng.random() < 0.2:
                memory.retain(rank, address, PARTNER)
                memory.free(PARTNER, address)
            row = memory.find(address)
            if row == status.NOT_ALLOCATED or (row.address, row.num_bytes, row.owner) != (
                address,
                num_bytes,
                rank,
            ):
                return WRONG
            if memory.free(rank, address) != status.OK:
                return WRONG
        else:
            num_bytes = rng.choice(SIZES)
            address = memory.alloc(rank, num_bytes)
            if address > 0:
                live.append((address, num_bytes))
        if rng.random() < 0.05:
            memory.flush(rank)
    return 0 if all(memory.free(rank, address) == status.OK for address, _ in live) else WRONG


def accesses_of(memory: HeapMemory, rounds: int, seed: int) -> int:
    """How many shared accesses a whole run makes."""
    count = SharedWords(1)

    def measure(rank: int) -> None:
        memory.open(rank)
        memory.open(PARTNER)
        before = faults.count()
        work(memory, rank, rounds, seed)
        count.words[0] = faults.count() - before

    assert end_of(start_rank(VICTIM, measure)) == 0
    return count.words[0]


def whole_again(memory: HeapMemory) -> None:
    """The clerk takes back what the dead had; nothing is lost, nothing is left."""
    memory.reclaim(CLERK)
    memory.check()
    assert memory.live() == []
    assert memory.alloc(CLERK, memory.num_bytes) == BASE
    assert memory.free(CLERK, BASE) == status.OK


def kill_alone(num_kills: int) -> None:
    """Kill so many runs of the same work, spread over its accesses; at most once at each."""
    memory = HeapMemory(num_blocks=6, num_ranks=NUM_RANKS)
    saved = memory.save()
    total = accesses_of(memory, 30, seed=1)
    memory.restore(saved)
    num_kills = min(num_kills, total)
    for kill in range(num_kills):
        access = 1 + kill * total // num_kills

        def victim(rank: int, access: int = access) -> int:
            memory.open(rank)
            memory.open(PARTNER)
            faults.arm(access)
            return work(memory, rank, 30, seed=1)

        code = end_of(start_rank(VICTIM, victim))
        assert code in (-signal.SIGKILL, 0), f"access {access}: exit code {code}"
        memory.announce_death(VICTIM)
        memory.announce_death(PARTNER)
        whole_again(memory)
        memory.restore(saved)
    print("alone", num_kills, "of", total)


if __name__ == "__main__":
    assert faults.is_active()
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    kill_alone(int(sys.argv[1]))
