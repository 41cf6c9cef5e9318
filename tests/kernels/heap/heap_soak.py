"""Four processes that allocate, fill, check, share and drop blocks of one heap at random, and are killed in it.

Run as a script by test_heap_soak.py: NAME COUNT, a function below and how many operations or kills.

A block is shared as a tensor is (umem/torch/flight.py): the sender keeps its reference and puts address and
generation into a box; the receiver takes a reference of its own and then empties the box. So no death
between any two steps leaves a reference that nobody knows of.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.kernels.forked import SharedWords, end_of, start_rank
from tests.kernels.heap.heap_memory import BASE, HeapMemory
from umem.kernels import status
from umem.kernels.heap import entries
from umem.kernels.heap.layout import BLOCK_BYTES
from umem.kernels.intrinsics import faults
from umem.kernels.page import control
from umem.memory.device import HOST, host

NUM_WORKERS = 4
NUM_BLOCKS = 64
HELD_BYTES = NUM_BLOCKS * BLOCK_BYTES // (2 * NUM_WORKERS)  # a worker drops before it allocates above that
DEADLINE_S = 30.0  # for anything: what takes longer is a hang
KILLS_PER_HEAP = 400  # each kill uses up a rank
ACCESSES = 4000  # of a worker from its start: the first use of every path of alloc, free, retain and flush
PR_SET_PDEATHSIG = 1
DEAD = -1  # in place of a process id
BOX_ADDRESS, BOX_GENERATION, BOX_WORDS = 0, 1, 2


@dataclass(frozen=True)
class Block:
    """An allocation that a worker holds, and the word that fills it: no two allocations have the same."""

    address: int
    num_bytes: int
    generation: int

    def words(self) -> np.ndarray:
        return host.view(self.address, self.num_bytes // 8 * 8).view(np.int64)

    @property
    def stamp(self) -> int:
        return self.address | (self.generation & 0x7FFF) << 48

    def fill(self) -> None:
        self.words().fill(self.stamp)

    def check(self) -> None:
        words = self.words()
        assert (words == self.stamp).all(), f"{self} holds {np.unique(words)[:4]}, not {self.stamp}"


class Soak:
    """One heap over memory, its workers by place, and a clerk: this process, which never dies."""

    def __init__(self, num_ranks: int = control.MAX_RANKS):
        self.memory = HeapMemory(NUM_BLOCKS, num_ranks)
        self.clerk = num_ranks - 1
        HOST.reserve(BASE, self.memory.num_bytes)
        self._fd = HOST.create(self.memory.num_bytes, "umem-soak")
        HOST.map(self._fd, BASE, self.memory.num_bytes)
        for kernel in (entries.alloc, entries.free, entries.retain, entries.flush, entries.find):
            kernel.load()  # here, and not once in every process
        self.steps = SharedWords(NUM_WORKERS)
        self.stop, self.num_started = SharedWords(1), SharedWords(1)
        self.boxes = SharedWords(NUM_WORKERS * NUM_WORKERS * BOX_WORDS)
        self.ranks, self.pids = [-1] * NUM_WORKERS, [DEAD] * NUM_WORKERS

    def box(self, sender: int, receiver: int) -> int:
        """Index of the box from one place to another; only the receiver empties it."""
        return (sender * NUM_WORKERS + receiver) * BOX_WORDS

    def start(self, place: int, prepare: Callable[[], object] = lambda: None) -> None:
        """A new process, with a rank that nobody had, at `place`; `prepare` is called in it just before work."""
        rank = self.num_started.words[0]
        self.num_started.words[0] += 1
        assert rank < self.clerk, "no rank is left"

        def work(rank: int) -> None:
            ctypes.CDLL(None).prctl(
                PR_SET_PDEATHSIG, signal.SIGKILL
            )  # not without the clerk, who may have failed
            self.memory.open(rank)
            worker = Worker(self, place, rank)
            prepare()
            worker.run()

        self.ranks[place], self.pids[place] = rank, start_rank(rank, work)

    def bury(self, place: int) -> None:
        """The process at `place` has been killed: announce it, and when others have gone on take back what it had."""
        code = end_of(self.pids[place], DEADLINE_S)
        assert code == -signal.SIGKILL, f"the worker at place {place} ended with {code}"
        self.memory.announce_death(self.ranks[place])
        self.pids[place] = DEAD
        self.wait_for_work()
        self.memory.reclaim(self.clerk)
        owners = self.memory.usage()[1]
        assert not any(owners[self.ranks[place]]), "the dead own nothing"

    def wait_for_work(self) -> None:
        """Return when every living worker has taken another step: nobody waits for the dead."""
        before, deadline = list(self.steps.words), time.monotonic() + DEADLINE_S
        living = [place for place, pid in enumerate(self.pids) if pid != DEAD]
        while any(self.steps.words[place] == before[place] for place in living):
            assert time.monotonic() < deadline, f"a worker hangs: {before} to {list(self.steps.words)} steps"
            time.sleep(0.0002)

    def close(self) -> None:
        """End the workers; nothing may be left, nothing lost."""
        self.stop.words[0] = 1
        codes = [end_of(pid, DEADLINE_S) for pid in self.pids]
        assert codes == [0] * NUM_WORKERS, f"workers ended with {codes}"
        self.memory.check()
        assert self.memory.live() == [], "references that nobody dropped"
        assert not np.any(self.memory.usage()[1]), "usage of every owner is zero"
        assert self.memory.alloc(self.clerk, self.memory.num_bytes) == BASE, "all is one piece again"
        os.close(self._fd)
        HOST.release_range(BASE, self.memory.num_bytes)


class Worker:
    """The process at one place."""

    def __init__(self, soak: Soak, place: int, rank: int):
        self.soak, self.memory, self.place, self.rank = soak, soak.memory, place, rank
        self.rng = random.Random(rank)
        self.held: dict[int, Block] = {}
        self.num_bytes = 0

    def run(self) -> None:
        """Work until told to stop, then drop everything."""
        actions = (self.alloc, self.drop, self.offer, self.take, self.flush)
        while not self.soak.stop.words[0]:
            (action,) = self.rng.choices(actions, (40, 25, 15, 20, 1))
            action()
            self.soak.steps.words[self.place] += 1
        for address in list(self.held):
            self.let_go(address)
        self.flush()

    def alloc(self) -> None:
        """Allocate and fill a block of log-uniform size, or drop one where that is too much."""
        octave = self.rng.randrange(6, 18) if self.rng.random() < 0.99 else 21
        num_bytes = self.rng.randrange(1 << octave, 2 << octave)
        if self.num_bytes + num_bytes > HELD_BYTES:
            return self.drop()
        address = self.until_done(lambda: self.memory.alloc(self.rank, num_bytes))
        assert address > status.AGAIN, status.name(address)
        row = self.memory.find(address)
        assert (row.address, row.num_bytes, row.owner) == (address, num_bytes, self.rank), row
        assert row.references == 1 and address not in self.held, row
        block = Block(address, num_bytes, row.generation)
        block.fill()
        return self.hold(block)

    def drop(self) -> None:
        """Check a block that is in no box, and let go of it."""
        boxes = [self.soak.box(self.place, other) for other in range(NUM_WORKERS)]
        offered = {self.soak.boxes.words[box + BOX_ADDRESS] for box in boxes}
        droppable = [address for address in self.held if address not in offered]
        if droppable:
            self.let_go(self.rng.choice(droppable))

    def offer(self) -> None:
        """Put a block into another place's box, if that is empty."""
        receiver = self.rng.randrange(NUM_WORKERS)
        words, box = self.soak.boxes.words, self.soak.box(self.place, receiver)
        if receiver != self.place and self.held and words[box + BOX_ADDRESS] == 0:
            block = self.held[self.rng.choice(list(self.held))]
            words[box + BOX_GENERATION] = block.generation
            words[box + BOX_ADDRESS] = block.address  # last: with it the message is there

    def take(self) -> None:
        """Take a reference to what stands in one of the own boxes, and empty that."""
        sender = self.rng.randrange(NUM_WORKERS)
        words, box = self.soak.boxes.words, self.soak.box(sender, self.place)
        address, generation = words[box + BOX_ADDRESS], words[box + BOX_GENERATION]
        if address == 0:
            return
        code = self.until_done(lambda: self.memory.retain(self.rank, address, self.rank, generation))
        if code == status.OK:
            row = self.memory.find(address)
            assert (row.address, row.generation) == (address, generation), row
            block = Block(address, row.num_bytes, generation)
            block.check()
            if address not in self.held:
                self.hold(block)
        else:
            is_orphan = self.soak.num_started.words[0] > NUM_WORKERS or self.soak.stop.words[0]
            assert is_orphan, f"the sender lives and holds it: {status.name(code)}"
        words[box + BOX_ADDRESS] = 0

    def flush(self) -> None:
        """Return this worker's stock of free slots."""
        code = self.until_done(lambda: self.memory.flush(self.rank))
        assert code == status.OK, status.name(code)

    def hold(self, block: Block) -> None:
        """Note a block."""
        self.held[block.address] = block
        self.num_bytes += block.num_bytes

    def let_go(self, address: int) -> None:
        """Drop this rank's reference to a block that is whole."""
        block = self.held.pop(address)
        self.num_bytes -= block.num_bytes
        block.check()
        code = self.until_done(lambda: self.memory.free(self.rank, address))
        assert code == status.OK, status.name(code)

    def until_done(self, step: Callable[[], int]) -> int:
        """Repeat `step` while others hold the lock."""
        deadline = time.monotonic() + DEADLINE_S
        while (code := step()) == status.AGAIN:
            assert time.monotonic() < deadline, "the lock is held for good"
        return code


# --- what the script runs


def live(num_operations: int) -> None:
    """So many operations of four workers, none of which dies."""
    soak = Soak(NUM_WORKERS + 1)
    for place in range(NUM_WORKERS):
        soak.start(place)
    while sum(soak.steps.words) < num_operations:
        soak.wait_for_work()
    soak.close()


def die_at_random(num_kills: int) -> None:
    """Kill a random worker at a random time, so many times; a new process takes its place."""
    rng = random.Random(3)

    def kill(soak: Soak, count: int) -> None:
        place = rng.randrange(NUM_WORKERS)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(soak.pids[place], signal.SIGKILL)
        soak.bury(place)
        soak.start(place)

    _kill_each(num_kills, kill)


def die_everywhere(num_kills: int) -> None:
    """Under the faults build: kill a worker at its first accesses to shared memory, each at another one.

    Every one of ACCESSES where there are as many kills.
    """
    assert faults.is_active()
    order = list(range(1, ACCESSES + 1, max(1, ACCESSES // num_kills)))
    random.Random(5).shuffle(order)

    def kill(soak: Soak, count: int) -> None:
        os.kill(soak.pids[0], signal.SIGKILL)
        soak.bury(0)
        soak.start(0, lambda: faults.arm(order[count % len(order)]))
        soak.bury(0)
        soak.start(0)

    _kill_each(num_kills, kill)


def _kill_each(num_kills: int, kill: Callable[[Soak, int], None]) -> None:
    """Call `kill` while four workers work; survivors must go on after each, and all must be whole at the end."""
    for first in range(0, num_kills, KILLS_PER_HEAP // 2):
        soak = Soak()
        for place in range(NUM_WORKERS):
            soak.start(place)
        for count in range(first, min(num_kills, first + KILLS_PER_HEAP // 2)):
            soak.wait_for_work()
            kill(soak, count)
        soak.wait_for_work()
        soak.close()


if __name__ == "__main__":
    what = {function.__name__: function for function in (live, die_at_random, die_everywhere)}[sys.argv[1]]
    started_s = time.monotonic()
    what(int(sys.argv[2]))
    print(f"{what.__name__} {sys.argv[2]}: {time.monotonic() - started_s:.1f} s")
