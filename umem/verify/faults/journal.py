"""A journal of the ranks' work that survives their deaths: int64 words in a file that all of them map.

A killed rank cannot report, but its row stays. Every row has one writer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUM_COUNTERS = 8
# of JOURNAL_INTENT: the counter that is being raised, plus one
JOURNAL_PID, JOURNAL_STEPS, JOURNAL_INTENT, JOURNAL_REPORTED = 0, 1, 2, 3
JOURNAL_LOST = JOURNAL_REPORTED + NUM_COUNTERS  # counters of which this rank has met a poisoned line
ROW_WORDS = JOURNAL_LOST + NUM_COUNTERS


class Journal:
    """One row of words a rank, and a word by which rank 0 ends the work."""

    def __init__(self, path: Path, num_ranks: int):
        self.num_ranks = num_ranks
        self._words = np.memmap(path, np.int64, "r+", shape=(num_ranks + 1, ROW_WORDS))
        self.rows = self._words[:num_ranks]

    @staticmethod
    def create(path: Path, num_ranks: int) -> None:
        """A file for so many ranks, all words 0."""
        path.write_bytes(bytes(8 * ROW_WORDS * (num_ranks + 1)))

    @property
    def is_over(self) -> bool:
        """Whether the ranks are to end."""
        return bool(self._words[self.num_ranks, 0])

    def end(self) -> None:
        """Tell the ranks to end."""
        self._words[self.num_ranks, 0] = 1

    def behind(self, wanted: dict[int, int]) -> list[int]:
        """The ranks that have not yet made as many steps as they are wanted to."""
        return [rank for rank, steps in wanted.items() if self.rows[rank, JOURNAL_STEPS] < steps]

    def reported(self, counter: int) -> int:
        """How often a counter was raised, as all ranks report."""
        return int(self.rows[:, JOURNAL_REPORTED + counter].sum())

    def in_doubt(self, counter: int, dead: list[int]) -> int:
        """How many of the dead may have raised a counter without a report."""
        return sum(int(self.rows[rank, JOURNAL_INTENT]) == counter + 1 for rank in dead)

    def is_lost(self, counter: int) -> bool:
        """Whether a rank has met the counter's line poisoned."""
        return bool(self.rows[:, JOURNAL_LOST + counter].any())
