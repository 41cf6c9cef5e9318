"""Kills real processes inside coherent accesses; run as a script by test_coherence_kills.py.

Arguments: NAME COUNT, a function below and how many kills. All ranks map each other: what a dead rank held is
salvaged from its cache. A death between two steps of an access is found in what its journal says: a word holds what
the dead reported, or one more.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections.abc import Callable

import numpy as np

from tests.kernels.coherent.coherent_memory import CoherentMemory
from tests.kernels.forked import SharedWords, end_of, start_rank
from umem.coherence.protocol import MESI, MSI, SNOOP
from umem.errors import LinePoisoned
from umem.kernels.coherent import entries, span
from umem.kernels.intrinsics import faults
from umem.kernels.page import operations
from umem.lines.cache import LineCache

LINE_BYTES = 64
DEADLINE_S = 30.0  # for anything: what takes longer is a hang
PR_SET_PDEATHSIG = 1
PROTOCOLS = (MSI, MESI, SNOOP)
HOMES = ("through", "back", "back")  # what the memory of ranks 0, 1, 2 is
NUM_COUNTERS = 24  # words that are only ever raised by one; two on each line, eight at each home
AREA_WORDS = 20  # a range that one place writes, over three lines
AREAS_AT = 2048


class World:
    """Memory, counters and areas in it, and what all places have reported; places are the workers' numbers."""

    def __init__(self, num_ranks: int, num_places: int, protocol: int):
        self.memory = CoherentMemory(num_ranks, len(HOMES), PROTOCOLS[protocol % len(PROTOCOLS)])
        self.clerk_rank, self.num_places = num_ranks - 1, num_places
        self.clerk = self.memory.open(self.clerk_rank)
        self.blocks = [self.clerk.alloc(4096, home, cache, LINE_BYTES) for home, cache in enumerate(HOMES)]
        self.reported = SharedWords(num_places * NUM_COUNTERS)
        self.intents, self.steps = SharedWords(num_places), SharedWords(num_places)  # counter + 1
        self.written, self.writing = SharedWords(num_places), SharedWords(num_places)
        self.stop = SharedWords(1)
        self.unknown = [0] * NUM_COUNTERS  # deaths between an increment and its report
        self.deaths = SharedWords(num_places)

    def counter(self, index: int) -> int:
        """Address of a counter."""
        home, number = index % len(HOMES), index // len(HOMES)
        return self.blocks[home] + number // 2 * LINE_BYTES + number % 2 * 24

    def area(self, place: int) -> int:
        """Address of the range that `place` writes."""
        return self.blocks[1 + place % 2] + AREAS_AT + place // 2 * 4 * LINE_BYTES

    def bury(self, place: int, rank: int) -> None:
        """Tell all of a death, and note what its journal leaves open."""
        self.memory.announce_death(rank)
        self.deaths.words[place] += 1
        intent = self.intents.words[place]
        if intent:
            self.unknown[intent - 1] += 1
            self.intents.words[place] = 0

    def check_counters(self) -> None:
        """Every counter is what was reported, or as much more as deaths leave open."""
        for index in range(NUM_COUNTERS):
            low = sum(self.reported.words[index::NUM_COUNTERS])
            value = self.clerk.load(self.counter(index), 8)
            high = low + self.unknown[index]
            assert low <= value <= high, f"counter {index} is {value}, not {low} to {high}"

    def use_all(self) -> None:
        """The clerk has every line for itself, and finds nothing left of the dead."""
        for index in range(NUM_COUNTERS):
            before = self.clerk.load(self.counter(index), 8)
            assert self.clerk.change(self.counter(index), operations.FETCH_ADD, 1, 0, 8) == before
            self.reported.words[index] += 1
        self.memory.check(LINE_BYTES, {self.clerk_rank})

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()


class Worker:
    """The process at one place."""

    def __init__(self, world: World, place: int, cache: LineCache, seed: int):
        self.world, self.place, self.cache = world, place, cache
        self.rng = random.Random(seed)
        self.seen = [0] * NUM_COUNTERS
        self.areas = [[0] * AREA_WORDS for _ in range(world.num_places)]
        self.deaths = list(world.deaths.words)

    def run(self) -> None:
        """Work until told to stop."""
        while not self.world.stop.words[0]:
            self.step()

    def step(self) -> None:
        """One access of a random kind."""
        (action,) = self.rng.choices((self.add, self.look, self.write, self.read), (60, 20, 10, 10))
        action()
        self.world.steps.words[self.place] += 1

    def add(self) -> None:
        """Raise a counter, and report it."""
        index = self.rng.randrange(NUM_COUNTERS)
        address, world = self.world.counter(index), self.world
        is_swap = self.rng.random() < 0.3
        seen = self.cache.load(address, 8) if is_swap else 0
        world.intents.words[self.place] = index + 1
        if is_swap:
            while (found := self.cache.change(address, operations.COMPARE_SWAP, seen, seen + 1, 8)) != seen:
                seen = found
        else:
            seen = self.cache.change(address, operations.FETCH_ADD, 1, 0, 8)
        world.reported.words[self.place * NUM_COUNTERS + index] += 1
        world.intents.words[self.place] = 0
        self.note(index, seen + 1)

    def look(self) -> None:
        """Read a counter: it never goes back."""
        index = self.rng.randrange(NUM_COUNTERS)
        self.note(index, self.cache.load(self.world.counter(index), 8))

    def note(self, index: int, value: int) -> None:
        """Hold a value against those seen before."""
        assert value >= self.seen[index], f"counter {index} goes back from {self.seen[index]} to {value}"
        self.seen[index] = value

    def write(self) -> None:
        """Fill the own area with the next number."""
        number = self.world.writing.words[self.place] + 1
        self.world.writing.words[self.place] = number
        data = np.full(AREA_WORDS, number)
        self.again(
            self.place, lambda: self.cache.write(self.world.area(self.place), data.ctypes.data, data.nbytes)
        )
        self.world.written.words[self.place] = number

    def read(self) -> None:
        """Read somebody's area: no word goes back, and none is from the future."""
        place = self.rng.randrange(self.world.num_places)
        found = np.empty(AREA_WORDS, np.int64)
        least = self.world.written.words[place]
        number = self.world.deaths.words[place]
        self.again(place, lambda: self.cache.read(found.ctypes.data, self.world.area(place), found.nbytes))
        if number != self.deaths[place] or self.world.deaths.words[place] != number:
            self.deaths[place] = self.world.deaths.words[place]
            self.areas[place] = [0] * AREA_WORDS  # lines that were lost hold what last came home
            return
        most = self.world.writing.words[place]
        if not number:
            assert min(found) >= least, f"area {place}: {found}, after {least} was written"
        assert max(found) <= most, f"area {place}: {found}, before {most} is written"
        assert all(new >= old for new, old in zip(found, self.areas[place], strict=True)), (
            f"area {place} goes back from {self.areas[place]} to {found}"
        )
        self.areas[place] = found.tolist()

    def again(self, place: int, access: Callable[[], object]) -> None:
        """Do it; lines that died with the writer of the area at `place` are lifted."""
        while True:
            try:
                access()
                return
            except LinePoisoned as lost:
                start = self.world.area(place)
                assert start <= lost.address < start + AREA_WORDS * 8, f"{lost.address:#x} is poisoned"
                assert self.world.deaths.words[place], "nobody has died here"
                self.areas[place] = [0] * AREA_WORDS
                self.cache.reset(lost.address)


# --- what the script runs


def kill_alone(num_kills: int) -> None:
    """Kill the same run of one process, which acts for two ranks, at so many of its accesses; at most once at each."""
    victim, partner, clerk = 0, 1, 2
    for protocol in range(len(PROTOCOLS)):
        world = World(clerk + 1, 2, protocol)
        for kernel in (*entries.LOADS.values(), *entries.CHANGES.values()):
            kernel.load()  # here, and not once in every process
        span.read.load(), span.write.load()
        saved = world.memory.save()
        count = SharedWords(1)

        def work(rank: int, access: int, world: World = world, count: SharedWords = count) -> None:
            workers = [Worker(world, place, world.memory.open(place), place) for place in (victim, partner)]
            if access:
                faults.arm(access)
            before, order = faults.count(), random.Random(1)
            for _ in range(30):
                order.choice(workers).step()
            count.words[0] = faults.count() - before

        assert end_of(start_rank(victim, lambda rank: work(rank, 0)), DEADLINE_S) == 0
        total, share = count.words[0], -(-num_kills // len(PROTOCOLS))
        kills = min(share, total)
        num_cut = 0
        for kill in range(kills):
            forget(world, saved)
            access = 1 + kill * total // kills
            code = end_of(start_rank(victim, lambda rank, at=access: work(rank, at)), DEADLINE_S)
            assert code in (-signal.SIGKILL, 0), f"access {access}: exit code {code}"
            for place in (victim, partner):
                world.bury(place, place)
            world.check_counters()
            num_cut += check_areas(world)
            world.use_all()
        print(f"alone {PROTOCOLS[protocol].name}: {kills} of {total}, {num_cut} writes cut short")
        world.close()


def forget(world: World, saved: list[tuple[int, bytes]]) -> None:
    """Begin again."""
    world.memory.restore(saved)
    world.unknown = [0] * NUM_COUNTERS
    for row in (world.reported, world.intents, world.written, world.writing, world.deaths):
        ctypes.memset(row.address, 0, ctypes.sizeof(row.words))


def check_areas(world: World) -> int:
    """Areas hold what was written, or, from some word to another, the write in flight: nothing is lost where everybody
    maps what the dead had. How many writes were cut short."""
    num_cut = 0
    for place in range(world.num_places):
        written, writing = world.written.words[place], world.writing.words[place]
        values = {world.clerk.load(world.area(place) + 8 * word, 8) for word in range(AREA_WORDS)}
        assert values <= {written, writing}, f"area {place}: {values}, not {written} or {writing}"
        num_cut += len(values) == 2
    return num_cut


class Crowd:
    """Four workers at their places, of whom some die and are replaced."""

    NUM_PLACES = 4
    NUM_RANKS = 64

    def __init__(self, protocol: int):
        self.world = World(self.NUM_RANKS, self.NUM_PLACES, protocol)
        for kernel in (*entries.LOADS.values(), *entries.CHANGES.values()):
            kernel.load()
        span.read.load(), span.write.load()
        self.next_rank = 0
        self.ranks, self.pids = [-1] * self.NUM_PLACES, [-1] * self.NUM_PLACES
        for place in range(self.NUM_PLACES):
            self.start(place)

    @property
    def has_ranks(self) -> bool:
        """Whether another worker can start."""
        return self.next_rank < self.world.clerk_rank - 1

    def start(self, place: int, access: int = 0) -> None:
        """A new process, with a rank that nobody had; with `access` it dies there."""
        rank, self.next_rank = self.next_rank, self.next_rank + 1

        def work(rank: int) -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            worker = Worker(self.world, place, self.world.memory.open(rank), rank)
            if access:
                faults.arm(access)
            worker.run()

        self.ranks[place], self.pids[place] = rank, start_rank(rank, work)

    def bury(self, place: int) -> None:
        """The process at `place` has been or will be killed: the others go on without it."""
        code = end_of(self.pids[place], DEADLINE_S)
        assert code == -signal.SIGKILL, f"the worker at place {place} ended with {code}"
        self.pids[place] = -1
        self.world.bury(place, self.ranks[place])
        self.wait_for_work()

    def wait_for_work(self) -> None:
        """Return when every living worker has taken a few steps more: nobody waits for the dead."""
        steps = self.world.steps.words
        before, deadline = list(steps), time.monotonic() + DEADLINE_S
        living = [place for place, pid in enumerate(self.pids) if pid != -1]
        while any(steps[place] < before[place] + 5 for place in living):
            assert time.monotonic() < deadline, f"a worker hangs: {before} to {list(steps)} steps"
            time.sleep(0.0002)

    def close(self) -> None:
        """End the workers: all sums are exact, and no lock is left."""
        self.world.stop.words[0] = 1
        codes = [end_of(pid, DEADLINE_S) for pid in self.pids]
        assert codes == [0] * self.NUM_PLACES, f"workers ended with {codes}"
        self.world.check_counters()
        self.world.use_all()
        self.world.close()


def die_at_random(num_kills: int) -> None:
    """Kill a random worker at a random time, so many times; a new process takes its place."""
    rng = random.Random(3)

    def kill(crowd: Crowd, number: int) -> None:
        place = rng.randrange(crowd.NUM_PLACES)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(crowd.pids[place], signal.SIGKILL)
        crowd.bury(place)
        crowd.start(place)

    _kill_each(num_kills, 1, kill)


def die_everywhere(num_kills: int) -> None:
    """Under the faults build: a worker dies at its n-th access beside three others, for n spread over 1 to 4000."""
    assert faults.is_active()
    order = list(range(1, 4001, max(1, 4000 // num_kills)))[:num_kills]
    random.Random(5).shuffle(order)

    def kill(crowd: Crowd, number: int) -> None:
        os.kill(crowd.pids[0], signal.SIGKILL)
        crowd.bury(0)
        crowd.start(0, access=order[number])
        crowd.bury(0)
        crowd.start(0)

    _kill_each(len(order), 2, kill)


def _kill_each(num_kills: int, ranks_a_kill: int, kill: Callable[[Crowd, int], None]) -> None:
    number = protocol = 0
    while number < num_kills:
        crowd = Crowd(protocol)
        while number < num_kills and crowd.next_rank + ranks_a_kill < crowd.world.clerk_rank:
            crowd.wait_for_work()
            kill(crowd, number)
            number += 1
        crowd.wait_for_work()
        crowd.close()
        protocol += 1


if __name__ == "__main__":
    what = {function.__name__: function for function in (kill_alone, die_at_random, die_everywhere)}[
        sys.argv[1]
    ]
    started_s = time.monotonic()
    what(int(sys.argv[2]))
    print(f"{what.__name__} {sys.argv[2]}: {time.monotonic() - started_s:.1f} s")
