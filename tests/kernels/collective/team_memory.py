"""A team of forked processes without a space: pages that all share, and each member's own words."""

from __future__ import annotations

import numpy as np

from tests.kernels.forked import SharedWords
from umem.kernels.collective import layout, run
from umem.kernels.collective.reductions import reduction
from umem.kernels.data.reduce import SUM
from umem.kernels.page.control import CONTROL_BYTES, CONTROL_EPOCH, CONTROL_SPIN_ROUNDS
from umem.kernels.status import AGAIN, SLICE_NS

HALF_BYTES = 4096  # small, so that operations take several rounds
NUM_ELEMENTS = 1500  # int64
CONTROL_WORDS = CONTROL_BYTES // 8


class TeamMemory:
    """Made before the fork: each child then acts for one member."""

    def __init__(self, size: int):
        self.size = size
        self.page_words = layout.page_bytes(size, HALF_BYTES) // 8
        self.pages = SharedWords(size * self.page_words)
        self.controls = SharedWords(size * CONTROL_WORDS)
        self.addresses = np.array(
            [self.pages.address + 8 * self.page_words * member for member in range(size)]
        )
        self.scratch = np.zeros(layout.TEAM_SCRATCH_BYTES // 8 + size, np.int64)
        self.words = np.zeros(layout.TEAM_WORDS, np.int64)
        self.reduction = reduction(SUM, "i64").address
        run.start.load()
        run.go_on.load()

    def act_for(self, member: int) -> None:
        words = self.words
        words[layout.TEAM_CONTROL] = self.controls.address + 8 * CONTROL_WORDS * member
        words[layout.TEAM_SIZE], words[layout.TEAM_POSITION] = self.size, member
        words[layout.TEAM_PAGES] = self.addresses.ctypes.data
        words[layout.TEAM_HALF_BYTES] = HALF_BYTES
        words[layout.TEAM_EAGER_BYTES] = words[layout.TEAM_TWO_SHOT_BYTES] = 1024
        words[layout.TEAM_STREAM_BYTES] = 1 << 40
        words[layout.TEAM_SCRATCH] = self.scratch.ctypes.data
        words[layout.TEAM_SOURCES] = self.scratch[-self.size :].ctypes.data
        self.controls.words[CONTROL_WORDS * member + CONTROL_SPIN_ROUNDS] = 20

    def begin_again(self) -> None:
        """As before the first operation."""
        self.pages.words[:] = type(self.pages.words)()[:]
        for member in range(self.size):
            self.controls.words[CONTROL_WORDS * member + CONTROL_EPOCH] = 0

    def tell_of_a_death(self) -> None:
        """What every rank's agent does."""
        for member in range(self.size):
            self.controls.words[CONTROL_WORDS * member + CONTROL_EPOCH] = 1

    def call(
        self, flags: int, src: np.ndarray, dst: np.ndarray, length: int, rows: np.ndarray | None = None
    ) -> int:
        """One operation; its status: OK, EPOCH_CHANGED, MISMATCH."""
        reduces = flags & layout.REDUCES
        table = 0 if rows is None else rows.ctypes.data
        code = run.start(
            self.words.ctypes.data,
            flags,
            layout.call_word(flags, SUM, 7, 0),
            src.ctypes.data,
            dst.ctypes.data,
            length,
            0,
            self.reduction if reduces else 0,
            8,
            table,
            0,
            SLICE_NS,
        )
        while code == AGAIN:
            code = run.go_on(self.words.ctypes.data, 0, SLICE_NS)
        return int(code)
