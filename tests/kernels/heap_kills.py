"""Kills real processes inside the heap, under the faults build; run as a script by test_heap_kills.py.

Arguments: how many kills of a rank that works alone, how many of one beside a rank that goes on.
"""

from __future__ import annotations

import ctypes
import random
import signal
import sys

from tests.kernels.forked import SharedWords, end_of, start_rank
from tests.kernels.heap_memory import BASE, HeapMemory
from umem.kernels import faults, status
from umem.kernels.heap_layout import BLOCK_BYTES

VICTIM, SURVIVOR, CLERK, PARTNER = 0, 1, 2, 3  # a rank that works also acts for its partner, rank + 3
NUM_RANKS = 5
SIZES = (64, 700, 700, 5000, 40_000, 300_000, BLOCK_BYTES)
GOING_ON = 3  # exit code of a survivor that found something wrong


def work(memory: HeapMemory, rank: int, rounds: int, seed: int) -> int:
    """Allocate, free, hold and flush at random, then free all."""
    rng = random.Random(seed)
    live: list[tuple[int, int]] = []
    for _ in range(rounds):
        if live and rng.random() < 0.5:
            address, num_bytes = live.pop(rng.randrange(len(live)))
            if rng.random() < 0.2:
                memory.retain(rank, address, rank + PARTNER)
                memory.free(rank + PARTNER, address)
            row = memory.find(address)
            if row == status.NOT_ALLOCATED or (row.address, row.num_bytes, row.owner) != (
                address,
                num_bytes,
                rank,
            ):
                return GOING_ON
            if memory.free(rank, address) != status.OK:
                return GOING_ON
        else:
            num_bytes = rng.choice(SIZES)
            address = memory.alloc(rank, num_bytes)
            if address > 0:
                live.append((address, num_bytes))
        if rng.random() < 0.05:
            memory.flush(rank)
    return 0 if all(memory.free(rank, address) == status.OK for address, _ in live) else GOING_ON


def accesses_of(memory: HeapMemory, rounds: int, seed: int) -> int:
    """How many shared accesses a whole run makes."""
    count = SharedWords(1)

    def measure(rank: int) -> None:
        memory.open(rank)
        memory.open(rank + PARTNER)
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
    memory = HeapMemory(num_blocks=6, num_ranks=NUM_RANKS)
    saved = memory.save()
    total = accesses_of(memory, 30, seed=1)
    memory.restore(saved)
    for kill in range(num_kills):
        access = 1 + kill * total // num_kills

        def victim(rank: int, access: int = access) -> int:
            memory.open(rank)
            memory.open(rank + PARTNER)
            faults.arm(access)
            return work(memory, rank, 30, seed=1)

        code = end_of(start_rank(VICTIM, victim))
        assert code in (-signal.SIGKILL, 0), f"access {access}: exit code {code}"
        memory.announce_death(VICTIM)
        memory.announce_death(VICTIM + PARTNER)
        whole_again(memory)
        memory.restore(saved)
    print("alone", num_kills, "of", total)  # once at every access where num_kills >= total


def kill_beside(num_kills: int) -> None:
    memory = HeapMemory(num_blocks=16, num_ranks=NUM_RANKS)
    saved = memory.save()
    rng = random.Random(7)
    for kill in range(num_kills):
        access = rng.randrange(1, 30_000)

        def victim(rank: int, kill: int = kill, access: int = access) -> int:
            memory.open(rank)
            memory.open(rank + PARTNER)
            faults.arm(access)
            return work(memory, rank, 10_000, seed=kill)

        def survivor(rank: int, kill: int = kill) -> int:
            memory.open(rank)
            memory.open(rank + PARTNER)
            return work(memory, rank, 400, seed=-kill)

        dying, living = start_rank(VICTIM, victim), start_rank(SURVIVOR, survivor)
        assert end_of(dying) == -signal.SIGKILL
        memory.announce_death(VICTIM)  # until now the survivor may have waited for the lock
        memory.announce_death(VICTIM + PARTNER)
        code = end_of(living)
        assert code == 0, f"kill {kill}: the survivor ended with {code}"
        memory.announce_death(SURVIVOR)  # so that its magazine is taken back
        memory.announce_death(SURVIVOR + PARTNER)
        whole_again(memory)
        memory.restore(saved)
    print("beside", num_kills)


if __name__ == "__main__":
    assert faults.is_active()
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    kill_alone(int(sys.argv[1]))
    kill_beside(int(sys.argv[2]))
