"""Rows of a remote table, read again and again as a skewed workload does: from copies, and without."""

from __future__ import annotations

import numpy as np

from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from . import coherence_loops as loops
from .base import SpacePart, check
from .coherence import HOME_SIDE, CachedPart
from .message import UcxPart

ROW_BYTES = 256
SKEW = 1.05  # of the zipf distribution
FILL_ROWS = 1 << 14  # rows written at once


class Draws:
    """Rows to read, drawn by popularity, with random rows as the popular ones; the same for every side.

    The draws are used in turn, and then again.
    """

    def __init__(self, num_rows: int, num_draws: int, seed: int):
        rng = np.random.default_rng(seed)
        weights = np.cumsum(np.arange(1, num_rows + 1) ** -SKEW)
        ranks = np.searchsorted(weights, rng.random(num_draws) * weights[-1])
        self.rows = rng.permutation(num_rows)[ranks]
        self._at = 0

    def next(self, number: int) -> np.ndarray:
        """The next `number` rows."""
        if self._at + number > len(self.rows):
            self._at = 0
        self._at += number
        return self.rows[self._at - number : self._at]


def fill(part: SpacePart, table: int, num_rows: int) -> None:
    """Row i begins with i, by the home. Collective."""
    if part.rank == HOME_SIDE:
        for first in range(0, num_rows, FILL_ROWS):
            rows = np.zeros((min(FILL_ROWS, num_rows - first), ROW_BYTES // 8), np.int64)
            rows[:, 0] = first + np.arange(len(rows))
            part.space.put(table + first * ROW_BYTES, rows)
    part.space.barrier()


class CachedRows(CachedPart):
    """Rank 0 reads rows of rank 1 through its cache, a line a row. All draws have been read once before."""

    def __init__(
        self, space: Space, attribute: str, num_rows: int, num_draws: int, num_reads: int, seed: int
    ):
        super().__init__(space, attribute)
        self.num_reads = num_reads
        self.table = self.lines(num_rows * ROW_BYTES, line=ROW_BYTES)
        fill(self, self.table, num_rows)
        if self.is_timed:
            self.draws, self.own = Draws(num_rows, num_draws, seed), np.zeros(ROW_BYTES, np.uint8)
            for _ in range(num_draws // num_reads):
                self._read(self.draws.next(num_reads))

    def read(self, num_samples: int) -> Samples | None:
        """Reads."""
        if not self.is_timed:
            return None
        return self.alone(num_samples, self.num_reads, lambda: self._read(self.draws.next(self.num_reads)))

    def _read(self, rows: np.ndarray) -> int:
        arguments = self.table, ROW_BYTES, rows.ctypes.data, self.own.ctypes.data
        self.expect(self.settled(loops.read_rows, *arguments, last=len(rows)) == int(rows.sum()))
        return OK


class FetchedRows(UcxPart):
    """Rank 0 gets every row from rank 1, over UCX in a compiled loop."""

    def __init__(self, space: Space, num_rows: int, num_draws: int, num_reads: int, seed: int):
        super().__init__(space)
        self.num_reads = num_reads
        self.table = self.shared(num_rows * ROW_BYTES, HOME_SIDE).address
        fill(self, self.table, num_rows)
        if self.is_timed:
            self.draws, self.own = Draws(num_rows, num_draws, seed), np.zeros(ROW_BYTES, np.uint8)
            self.remote = space.segments.remote_address(self.table)
            reach = self.fabric.peers[HOME_SIDE].memory
            self.reach, self.key = reach.endpoint.handle, reach.key(self.remote, num_rows * ROW_BYTES)

    def get(self, num_samples: int) -> Samples | None:
        """Reads."""
        return self.alone(num_samples, self.num_reads, self._get)

    def _get(self) -> int:
        rows = self.draws.next(self.num_reads)
        place = (
            self.reach,
            HOME_SIDE,
            self.key,
            self.remote,
            ROW_BYTES,
            rows.ctypes.data,
            self.own.ctypes.data,
        )
        code, total = loops.get_rows(self.port.address, *place, len(rows), self.deadline_ns())
        check(code)
        self.expect(total == int(rows.sum()))
        return OK
