"""Latency parts: one line to and fro, a chain of dependent loads."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np

from umem.bench.parts import speed_loops
from umem.bench.parts.random_access import cpu_chase
from umem.kernels.page.signal import cpu_ping_pong
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from .base import SpacePart

ASKER, ANSWERER = 0, 1  # ranks
CHASE_MULTIPLIER = 4 * 362_143 + 1
CHASE_INCREMENT = 1_013_904_223  # odd


class Line(SpacePart):
    """One word at the answerer's, stored and loaded in turn by ranks 0 and 1: by umem's kernel and by C."""

    def __init__(self, space: Space, num_rounds: int):
        super().__init__(space)
        self.num_rounds = num_rounds
        self.line = self.shared(128, home=ANSWERER).address

    def load_store(self, num_samples: int) -> Samples | None:
        """A hand-over and back through umem's intrinsics."""
        return self.timed(num_samples, self.num_rounds, self._by_kernel, self._reset)

    def c(self, num_samples: int) -> Samples | None:
        """The same line, the same processes, in C."""
        return self.timed(num_samples, self.num_rounds, self._by_c, self._reset)

    def _by_kernel(self) -> int:
        return self._both_sides(cpu_ping_pong.compiled)

    def _by_c(self) -> int:
        return self._both_sides(hardware.load().line_ping_pong)

    def _both_sides(self, ping_pong: Callable[[int, int, int, int], int]) -> int:
        if self.rank <= ANSWERER:
            done = ping_pong(self.line, self.rank, self.num_rounds, hardware.MAX_POLLS)
            self.expect(done == self.num_rounds)
        return OK

    def _reset(self) -> None:
        self.space.barrier()
        if self.rank == ASKER:
            self.expect(self.space.load(self.line, "int64") in (0, 2 * self.num_rounds))
            self.space.store(self.line, 0, "int64")


class Chase(SpacePart):
    """A chain of dependent loads through every line of the peer's memory, of private memory, in C."""

    def __init__(self, space: Space, num_bytes: int, num_steps: int):
        super().__init__(space)
        self.num_lines, self.num_steps = num_bytes // 64, num_steps
        self.remote = self.shared(num_bytes, home=ANSWERER).address
        self.private: mmap.mmap | None = None
        self.at = {"peer": 0, "own": 0, "c": 0}  # word at which each chain stands
        self.num_done = dict.fromkeys(self.at, 0)
        self.num_done["c"] = (
            self.num_lines // 2
        )  # far from the lines that `own` has just brought into the cache
        self.at["c"] = jump(self.num_done["c"], self.num_lines) * speed_loops.CORE_LINE_WORDS
        if self.is_timed:
            self.private = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if not is_huge(self.remote):
                self.private.madvise(mmap.MADV_NOHUGEPAGE)  # the segment's pages are 4 KiB: so are these
            self.words = np.frombuffer(self.private, np.int64)
            self.local = self.words.ctypes.data
            for base in (self.remote, self.local):
                speed_loops.fill_chase(base, self.num_lines, CHASE_MULTIPLIER, CHASE_INCREMENT)

    def peer(self, num_samples: int) -> Samples | None:
        """Dependent loads from the peer's segment."""
        return self._run(num_samples, "peer", cpu_chase.compiled)

    def own(self, num_samples: int) -> Samples | None:
        """The same kernel over private memory with the same page size."""
        return self._run(num_samples, "own", cpu_chase.compiled)

    def c(self, num_samples: int) -> Samples | None:
        """C over the private memory."""
        return self._run(num_samples, "c", hardware.load().chase)

    def _run(self, num_samples: int, name: str, chase: Callable[[int, int, int], int]) -> Samples | None:
        if not self.is_timed:
            return None
        base = self.remote if name == "peer" else self.local
        return self.alone(num_samples, self.num_steps, lambda: self._follow(name, chase, base))

    def _follow(self, name: str, chase: Callable[[int, int, int], int], base: int) -> int:
        self.at[name] = chase(base, self.at[name], self.num_steps)
        self.num_done[name] += self.num_steps
        return OK

    def num_errors(self) -> int:
        """A chain must be where the generator is after as many steps."""
        for name, word in self.at.items():
            line = jump(self.num_done[name], self.num_lines)
            self.expect(word == line * speed_loops.CORE_LINE_WORDS)
        return super().num_errors()

    def close(self) -> None:
        if self.private is not None:
            del self.words
            self.private.close()
        super().close()


def jump(num_steps: int, num_lines: int) -> int:
    """Line that the generator of `fill_chase` reaches from line 0: its map, squared and multiplied."""
    multiplier, increment = CHASE_MULTIPLIER, CHASE_INCREMENT
    line = 0
    while num_steps:
        if num_steps & 1:
            line = (line * multiplier + increment) % num_lines
        increment = (increment * multiplier + increment) % num_lines
        multiplier = multiplier * multiplier % num_lines
        num_steps >>= 1
    return line


def is_huge(address: int) -> bool:
    """Whether the mapping that holds `address` has huge pages, from smaps."""
    fields: dict[str, int] = {}
    inside = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            head, *values = line.split()
            if "-" in head:
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= address < high
            elif inside and values[-1] == "kB":
                fields[head] = int(values[0])
    return fields.get("KernelPageSize:", 4) > 64 or fields.get("ShmemPmdMapped:", 0) > 0
