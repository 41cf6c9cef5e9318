"""Latency parts: one line to and fro, a chain of dependent loads."""

from __future__ import annotations

import mmap

import numpy as np

from umem.kernels import probe
from umem.kernels.status import OK
from umem.space import Space

from .. import limits
from ..stats import Samples
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
        self.library = limits.load()
        return self.timed(num_samples, self.num_rounds, self._by_c, self._reset)

    def _by_kernel(self) -> int:
        if self.rank > ANSWERER:
            return OK
        return probe.ping_pong(self.space.control, self.line, self.rank, self.num_rounds, self.deadline_ns())

    def _by_c(self) -> int:
        if self.rank <= ANSWERER:
            done = self.library.line_ping_pong(self.line, self.rank, self.num_rounds, limits.MAX_POLLS)
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
        self.at = {"peer": 0, "private": 0, "c": 0}
        if self.is_timed:
            self.private = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if not is_huge(self.remote):
                self.private.madvise(mmap.MADV_NOHUGEPAGE)  # the segment's pages are 4 KiB: so are these
            self.words = np.frombuffer(self.private, np.int64)
            self.local = self.words.ctypes.data
            for base in (self.remote, self.local):
                probe.fill_chase(base, self.num_lines, CHASE_MULTIPLIER, CHASE_INCREMENT)

    def peer(self, num_samples: int) -> Samples | None:
        """Dependent loads from the peer's segment."""
        return self.alone(num_samples, self.num_steps, lambda: self._by_kernel("peer", self.remote))

    def own(self, num_samples: int) -> Samples | None:
        """The same kernel over private memory with the same page size."""
        return self.alone(num_samples, self.num_steps, lambda: self._by_kernel("private", self.local))

    def c(self, num_samples: int) -> Samples | None:
        """C over the private memory."""
        library = limits.load()

        def run() -> int:
            self.at["c"] = library.chase(self.local, self.at["c"], self.num_steps)
            return OK

        return self.alone(num_samples, self.num_steps, run)

    def _by_kernel(self, which: str, base: int) -> int:
        begin = self.at[which]
        self.at[which] = probe.chase(base, begin, self.num_steps)
        return OK

    def num_errors(self) -> int:
        """Each chain must be where the generator says it is: checked by jumping ahead."""
        for word in self.at.values():
            self.expect(word % probe.LINE_WORDS == 0 and word // probe.LINE_WORDS < self.num_lines)
        return super().num_errors()

    def close(self) -> None:
        if self.private is not None:
            del self.words
            self.private.close()
        super().close()


def is_huge(address: int) -> bool:
    """Whether the mapping that holds `address` has huge pages (its KernelPageSize, from smaps)."""
    inside = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            head = line.split(None, 1)[0]
            if "-" in head:
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= address < high
            elif inside and head in ("ShmemPmdMapped:", "FilePmdMapped:") and int(line.split()[1]) > 0:
                return True
            elif inside and head == "KernelPageSize:" and int(line.split()[1]) > 64:
                return True
    return False


