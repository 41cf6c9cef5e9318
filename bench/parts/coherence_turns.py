"""Accesses of two ranks to the same lines: in turn, mostly loads, or at the same time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from umem.kernels import status
from umem.kernels.status import OK
from umem.space.space import Space
from umem.world.spec import MAPPED

from ..harness.stats import Samples
from . import coherence_loops as loops
from .base import BLOCK_TIMEOUT_S
from .coherence import LINE_BYTES, CachedPart
from .latency import Line

SIDES = 2  # ranks that take part
POLLS_OWN_CORE, POLLS_SHARED_CORE = 2000, 16  # before a waiting rank gives its core away
POOL = 1 << 14  # random offsets, used in turn


def third_rank(num_ranks: int) -> int:
    """The home of the lines: rank 2 where there is one, which takes no part, else rank 1."""
    return SIDES if num_ranks > SIDES else 1


class OwnCores:
    """Ranks 0 and 1 on a core each, also where there are more ranks than cores and ranks are not pinned."""

    def __init__(self, rank: int):
        self._before = os.sched_getaffinity(0)
        cores = sorted(self._before)
        if rank < SIDES <= len(cores):
            os.sched_setaffinity(0, {cores[rank]})

    def close(self) -> None:
        """Restore the affinity from before."""
        os.sched_setaffinity(0, self._before)


class RawLine(Line):
    """The hardware's own hand-over: a line to the other core and back, in a world of any size."""

    def __init__(self, space: Space, num_rounds: int):
        super().__init__(space, num_rounds)
        self._cores = OwnCores(space.rank)

    def close(self) -> None:
        self._cores.close()
        super().close()


class Turns(CachedPart):
    """Ranks 0 and 1 work on a block in turn; a word of the same memory counts turns. A sample is a turn."""

    def __init__(self, space: Space, attribute: str, num_bytes: int, num_turns: int):
        super().__init__(space, attribute)
        self.num_bytes, self.num_turns = num_bytes, num_turns
        loops.take_turns.load()  # the first time it compiles: not while the other rank waits for its turn
        self.turn = self.lines(LINE_BYTES + num_bytes, home=third_rank(space.num_ranks))
        self.block = self.turn + LINE_BYTES
        self.own = np.zeros(max(num_bytes, 8), np.uint8)
        self.num_done = 0  # turns of a rank, in all
        self._cores = OwnCores(space.rank)
        is_alone = space.world.spec.kind == MAPPED and len(os.sched_getaffinity(0)) == 1
        self._polls = POLLS_OWN_CORE if is_alone else POLLS_SHARED_CORE

    def update(self, num_samples: int) -> Samples | None:
        """Each rank adds 1 to a word of every line; with a block of 0 bytes a turn is the hand-over alone."""
        samples = self._take_turns(num_samples, (loops.WORK_ADD, loops.WORK_ADD))
        self.num_done += num_samples * self.num_turns
        self.space.barrier()
        if self.rank == 0:
            words = np.zeros(self.num_bytes // 8, np.int64)
            if self.num_bytes:
                self.space.get(words, self.block)
            self.expect(bool((words[:: LINE_BYTES // 8] == SIDES * self.num_done).all()))
        self.space.barrier()
        return None if samples is None else samples / SIDES

    def transfer(self, num_samples: int) -> Samples | None:
        """Rank 0 writes the block, rank 1 reads it; a sample is both."""
        return self._take_turns(num_samples, (loops.WORK_WRITE, loops.WORK_READ))

    def _take_turns(self, num_samples: int, works: tuple[int, int]) -> Samples | None:
        number = 0

        def before() -> None:
            nonlocal number
            number += 1
            self.space.barrier()
            if self.rank == 0:
                self.space.store(self.turn, 0, "int64")
            self.own[:] = number & 255 if works[0] == loops.WORK_WRITE and self.rank == 0 else 0

        def run() -> int:
            if self.rank < SIDES:
                self._play(works[self.rank])
                if works[self.rank] == loops.WORK_READ:
                    self.expect(bool((self.own[: self.num_bytes] == number & 255).all()))
            return OK

        return self.timed(num_samples, self.num_turns, run, before)

    def _play(self, work: int) -> None:
        """All turns of this rank. Where a block cannot be accessed by kernels, the space moves it."""
        pointer, last = self.own.ctypes.data, self.num_turns * loops.NUM_PHASES
        fixed = self.turn, self.rank, work, self.block, pointer, self.num_bytes, LINE_BYTES, self._polls
        position = done = 0

        def step() -> int:
            """OK after progress too: each turn has its own time."""
            nonlocal position, done
            before = position
            code, position, done = loops.take_turns(self.space.cache.address, *fixed, position, last, done)
            if code == status.NOT_CACHED:
                if work == loops.WORK_WRITE:
                    self.space.put(self.block, self.own[: self.num_bytes])
                else:
                    self.space.get(self.own[: self.num_bytes], self.block)
                position, done = position + 1, 0
            elif position == before:
                return int(code)
            return OK

        while position < last:
            self.space.cache.until_ok(step, lambda: self.turn, BLOCK_TIMEOUT_S)

    def close(self) -> None:
        self._cores.close()
        super().close()


class Mixed(CachedPart):
    """Ranks 0 and 1 load random words of a table at the same time; every `period`-th access adds 1 instead."""

    def __init__(
        self, space: Space, attribute: str, num_lines: int, period: int, num_accesses: int, seed: int
    ):
        super().__init__(space, attribute)
        self.num_lines, self.period, self.num_accesses = num_lines, period, min(num_accesses, POOL)
        self.base = self.lines(num_lines * LINE_BYTES, home=third_rank(space.num_ranks))
        self.offsets = np.random.default_rng([seed, space.rank]).integers(0, num_lines, POOL) * LINE_BYTES
        self.num_added = 0

    def access(self, num_samples: int) -> Samples | None:
        """Both ranks at once; a sample is the mean of rank 0's accesses."""
        samples = self.timed(num_samples, self.num_accesses, self._run)
        self.num_added += num_samples * (self.num_accesses // self.period) * SIDES
        self.space.barrier()
        if self.rank == 0:
            words = np.zeros(self.num_lines * LINE_BYTES // 8, np.int64)
            self.space.get(words, self.base)
            self.expect(int(words.sum()) == self.num_added)
        self.space.barrier()
        return samples

    def _run(self) -> int:
        if self.rank < SIDES:
            arguments: tuple[Any, ...] = self.offsets.ctypes.data, self.base, self.period
            self.settled(loops.mostly_load, *arguments, last=self.num_accesses)
        return OK


class Neighbours(CachedPart):
    """Ranks 0 and 1 each add to a word of its own: in one line, or each in a line of its own."""

    def __init__(self, space: Space, attribute: str, same_line: int, num_accesses: int):
        super().__init__(space, attribute)
        self.num_accesses = num_accesses
        self.base = self.lines(SIDES * LINE_BYTES, home=third_rank(space.num_ranks))
        self.word = self.base + space.rank * (8 if same_line else LINE_BYTES)
        self.num_added = 0

    def add(self, num_samples: int) -> Samples | None:
        """Both at once; a sample is the mean of rank 0's additions."""
        samples = self.timed(num_samples, self.num_accesses, self._run)
        self.num_added += num_samples * self.num_accesses
        if self.rank < SIDES:
            self.expect(self.space.load(self.word, "int64") == self.num_added)
        self.space.barrier()
        return samples

    def _run(self) -> int:
        if self.rank < SIDES:
            self.settled(loops.add_each, self.word, 0, 0, last=self.num_accesses)
        return OK
