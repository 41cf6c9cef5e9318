"""Accesses of one rank to its copies of a peer's lines: hits, copies of whole lines, misses, upgrades."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from umem.bench.parts.random_access import cpu_count_by_compare_swap
from umem.errors import Waived
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from . import coherence_loops as loops
from .base import BLOCK_TIMEOUT_S, SpacePart
from .message import Message

HOME_SIDE = 1
LINE_BYTES = 128
UNIT_BATCH = 10_000
COPIES_A_SAMPLE = 50
LEAST_MISSES = 0.9  # of accesses, in a walk round more lines than the sets of the cache hold


class CachedPart(SpacePart):
    """A part with memory of one attribute."""

    def __init__(self, space: Space, attribute: str):
        super().__init__(space)
        self.attribute = attribute
        self._at_last = space.cache.counters()
        self._counted: Counter[str] = Counter()

    def lines(self, num_bytes: int, home: int = HOME_SIDE, line: int = LINE_BYTES) -> int:
        """Address of `num_bytes` of zeroed memory at `home`, one for all ranks. Collective."""
        name = self.next_name()
        return self.keep(
            self.space.shared(name, (num_bytes,), "uint8", home, cache=self.attribute, line=line)
        ).address

    def settled(self, loop: Any, *arguments: int, last: int, first: int = 0) -> int:
        """Run a loop of coherence_loops from `first` to `last`, settling where it stops; returns the sum it made."""
        loop.load()  # the first time it compiles, which may take longer than a block
        position, total = first, 0

        def step() -> int:
            nonlocal position, total
            code, position, *more = loop(self.space.cache.address, *arguments, position, last)
            total += sum(more)
            return int(code)

        self.space.cache.until_ok(step, timeout_s=BLOCK_TIMEOUT_S)
        return total

    def since(self) -> dict[str, int]:
        """The changes of this rank's counters since the last call, without those that are 0."""
        before, self._at_last = self._at_last, self.space.cache.counters()
        return {name: value - before[name] for name, value in self._at_last.items() if value != before[name]}

    def begin_count(self) -> None:
        """Note the counters at the start of a block: other parts have run since the last one."""
        self._begin = self.space.cache.counters()

    def end_count(self) -> None:
        """Add the changes of the counters since `begin_count` to those of this part."""
        self._counted.update(self.space.cache.counters())
        self._counted.subtract(self._begin)

    def counted(self) -> dict[str, int]:
        """This rank's counters over all blocks of the part, without those that are 0."""
        return {name: number for name, number in self._counted.items() if number}


class Unit(SpacePart):
    """The unit that accesses are compared to: one compare-and-swap on a private word."""

    def __init__(self, space: Space):
        super().__init__(space)
        self.memory = np.zeros(16, np.int64)
        self.num_done = 0

    def compare_swap(self, num_samples: int) -> Samples | None:
        """Compare-and-swaps by rank 0, each of which finds the value that the one before it left."""
        return self.alone(num_samples, UNIT_BATCH, self._count)

    def _count(self) -> int:
        cpu_count_by_compare_swap(self.memory.ctypes.data, UNIT_BATCH)
        self.num_done += UNIT_BATCH
        self.expect(self.memory[0] == self.num_done)
        return OK


class Hits(CachedPart):
    """Rank 0 accesses lines of rank 1 of which it has copies: owned ones for `back`, shared ones for `through`."""

    def __init__(self, space: Space, attribute: str, num_threads: int, num_lines: int, num_accesses: int):
        super().__init__(space, attribute)
        self.num_threads, self.num_lines, self.num_accesses = num_threads, num_lines, num_accesses
        self.base = self.lines(num_lines * LINE_BYTES)
        self.words = np.zeros(num_lines, np.int64)  # the expected values

    def load(self, num_samples: int) -> Samples | None:
        """Loads; with two threads the other loads the same lines all the time, on the other core."""
        if not self.is_timed:
            return None
        with self._sibling():
            return self._each(num_samples, loops.load_each, self._check)

    def store(self, num_samples: int) -> Samples | None:
        """Stores."""
        last = np.arange(self.num_accesses - self.num_lines, self.num_accesses)
        return self._each(num_samples, loops.store_each, lambda _: self._now(last))

    def fetch_add(self, num_samples: int) -> Samples | None:
        """Additions."""
        return self._each(
            num_samples, loops.add_each, lambda _: self._now(self.words + self.num_accesses // self.num_lines)
        )

    def _each(self, num_samples: int, loop: Any, after: Callable[[int], None]) -> Samples | None:
        def run() -> int:
            after(self.settled(loop, self.base, LINE_BYTES, self.num_lines - 1, last=self.num_accesses))
            return OK

        return self.alone(num_samples, self.num_accesses, run)

    def _now(self, words: np.ndarray) -> None:
        self.words = words

    def _check(self, total: int) -> None:
        self.expect(total == int(self.words.sum()) * (self.num_accesses // self.num_lines))

    @contextmanager
    def _sibling(self) -> Iterator[None]:
        """A thread of this rank that loads the same lines while the block runs."""
        if self.num_threads == 1:
            yield
            return
        is_over, has_begun = threading.Event(), threading.Event()
        others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)

        def load() -> None:
            if others:
                os.sched_setaffinity(0, others)  # of this thread alone
            while not is_over.is_set():
                self.settled(
                    loops.load_each, self.base, LINE_BYTES, self.num_lines - 1, last=self.num_accesses
                )
                has_begun.set()

        if (os.cpu_count() or 1) < 2:
            raise Waived("two threads that load at the same time need two cores")
        thread = threading.Thread(target=load)
        thread.start()
        try:
            has_begun.wait(BLOCK_TIMEOUT_S)
            yield
        finally:
            is_over.set()
            thread.join()


class Lines(CachedPart):
    """Rank 0 copies a block to and from lines that it owns, and between two blocks of its own."""

    def __init__(self, space: Space, attribute: str, num_bytes: int, line: int):
        super().__init__(space, attribute)
        self.num_bytes = num_bytes
        self.block = self.lines(num_bytes, line=line)
        own = np.zeros(2 * num_bytes + LINE_BYTES, np.uint8)
        first = -own.ctypes.data % LINE_BYTES
        self.src, self.dst = (own[first + i * num_bytes : first + (i + 1) * num_bytes] for i in (0, 1))
        self.number = 0

    def read(self, num_samples: int) -> Samples | None:
        """Lines to own memory."""
        return self._copies(num_samples, loops.WORK_READ, self.block, self.dst)

    def write(self, num_samples: int) -> Samples | None:
        """Own memory to lines."""
        samples = self._copies(num_samples, loops.WORK_WRITE, self.block, self.src)
        if self.is_timed:
            self.space.get(self.dst, self.block)
            self.expect(bool((self.dst == self.src).all()))
        return samples

    def plain(self, num_samples: int) -> Samples | None:
        """Own memory to own memory, by the kernel that copies vectors."""
        return self._copies(num_samples, loops.WORK_READ_RAW, self.src.ctypes.data, self.dst)

    def _copies(self, num_samples: int, operation: int, block: int, own: np.ndarray) -> Samples | None:
        if not self.is_timed:
            return None
        self.number += 1
        self.src[:] = self.number & 255
        if operation == loops.WORK_READ:
            self.space.put(self.block, self.src)
        arguments = operation, block, own.ctypes.data, self.num_bytes

        def run() -> int:
            self.settled(loops.copy_each, *arguments, last=COPIES_A_SAMPLE)
            return OK

        samples = self.alone(num_samples, COPIES_A_SAMPLE, run)
        if operation != loops.WORK_WRITE:
            self.expect(bool((self.dst == self.src).all()))
        return samples


class Misses(CachedPart):
    """Rank 0 walks round more lines of rank 1 than its cache holds: accesses miss, and evict.

    Where there are copies a sample is the time of `num_accesses` over the misses that were counted.
    """

    def __init__(self, space: Space, attribute: str, num_lines: int, num_accesses: int):
        super().__init__(space, attribute)
        self.num_lines, self.num_accesses = num_lines, num_accesses
        self.base = self.lines(num_lines * LINE_BYTES)
        self.words = np.zeros(num_lines, np.int64)  # the expected values
        self.at = 0

    def read(self, num_samples: int) -> Samples | None:
        """Loads."""
        return self._walk(num_samples, loops.load_each, "read_misses")

    def write(self, num_samples: int) -> Samples | None:
        """Stores; evicted lines are written back to their home."""
        return self._walk(num_samples, loops.store_each, "write_misses")

    def _walk(self, num_samples: int, loop: Any, counter: str) -> Samples | None:
        if not self.is_timed:
            return None
        walks: list[tuple[int, int]] = []  # last position, and the sum of the loaded values

        def walk(num_accesses: int = self.num_accesses) -> int:
            first, self.at = self.at, self.at + num_accesses
            arguments = self.base, LINE_BYTES, self.num_lines - 1
            walks.append((self.at, self.settled(loop, *arguments, first=first, last=self.at)))
            return OK

        begin = self.at
        walk(self.num_lines)  # evicts what earlier blocks left in the cache
        self.since()
        samples = self.alone(num_samples, self.num_accesses, walk)
        counted = self.since()
        for end, total in walks:
            self._check(loop, np.arange(begin, end), total)
            begin = end
        makes_copies = self.attribute == "back" or (self.attribute == "through" and loop is loops.load_each)
        if samples is None or not makes_copies:
            return samples
        fraction = counted.get(counter, 0) / (num_samples * self.num_accesses)
        self.expect(LEAST_MISSES <= fraction <= 1)
        return samples / max(fraction, LEAST_MISSES)

    def _check(self, loop: Any, visited: np.ndarray, total: int) -> None:
        """Check the sum of a walk's loads against the stored values, or note the values that it stored."""
        lines = visited % self.num_lines
        if loop is loops.load_each:
            self.expect(total == int(self.words[lines].sum()))
        else:
            self.words[lines] = visited


class Upgrades(CachedPart):
    """Rank 0 stores to lines of which it has shared copies."""

    def __init__(self, space: Space, attribute: str, num_lines: int):
        super().__init__(space, attribute)
        self.num_lines = num_lines
        self.base = self.lines(num_lines * LINE_BYTES)

    def store(self, num_samples: int) -> Samples | None:
        """Stores that upgrade shared copies; before each sample the home's loads make rank 0's owned lines shared."""
        self._access(loops.store_each)
        self.since()
        samples = self.timed(num_samples, self.num_lines, self._store, self._share)
        if self.is_timed:
            self.expect(self.since().get("upgrades") == num_samples * self.num_lines)
        self.space.barrier()
        expected = sum(range(self.num_lines))
        self.expect(self.rank != HOME_SIDE or self._access(loops.load_each, HOME_SIDE) == expected)
        return samples

    def _store(self) -> int:
        self._access(loops.store_each)
        return OK

    def _share(self) -> None:
        self.space.barrier()
        self._access(loops.load_each, HOME_SIDE)

    def _access(self, loop: Any, rank: int = 0) -> int:
        """Run `loop` over all lines, by one rank; returns its sum."""
        if self.rank != rank:
            return 0
        return self.settled(loop, self.base, LINE_BYTES, self.num_lines - 1, last=self.num_lines)


class Asked(Message):
    """The same by messages: rank 0 asks the home's user code, which sends the bytes."""

    def message(self, num_samples: int) -> Samples | None:
        """A round trip."""
        half = super().message(num_samples)
        return None if half is None else 2 * half
