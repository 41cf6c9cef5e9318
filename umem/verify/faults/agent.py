"""Agents under deaths: a home that dies while it is asked is RankLost to the ranks that asked it, and to no other."""

from __future__ import annotations

import numpy as np

from ...errors import RankLost, WaitTimeout
from ...space.space import Space
from ...world.waiting import Deadline, until
from .journal import Journal
from .play import victims

_NUM_ROWS, _COLUMNS = 256, 16


class AgentWork:
    """Every rank asks random homes' agents to gather rows of their tables and to add to their words."""

    def __init__(self, space: Space, journal: Journal, rng: np.random.Generator):
        self.space, self.rng = space, rng
        values = np.arange(_NUM_ROWS * _COLUMNS, dtype=np.float32).reshape(_NUM_ROWS, _COLUMNS)
        self.values = values
        self.tables = [
            space.shared(f"table-{home}", values.shape, "float32", home=home).address
            for home in range(space.num_ranks)
        ]
        self.words = [
            space.shared(f"word-{home}", 1, "int64", home=home).address for home in range(space.num_ranks)
        ]
        space.put(self.tables[space.rank], values)
        space.barrier()

    def step(self) -> None:
        """Ask a random home."""
        home = int(self.rng.integers(self.space.num_ranks))
        try:
            self.ask(home)
        except RankLost as lost:
            assert lost.rank == home and home in victims(self.space.num_ranks), "no other rank dies"

    def ask(self, home: int) -> None:
        """Gather rows of the home's table there, and add to its word. Raises RankLost."""
        indices = self.rng.integers(0, _NUM_ROWS, 32)
        rows = np.empty((len(indices), _COLUMNS), np.float32)
        self.space.near.gather(rows, self.tables[home], _NUM_ROWS, indices)
        assert np.array_equal(rows, self.values[indices]), "rows of another table"
        self.space.fetch_add(self.words[home], 1)

    def recover(self, victim: int) -> None:
        """Ask the dead rank until that raises RankLost. Raises WaitTimeout where it never does."""

        def look() -> bool | None:
            try:
                self.ask(victim)
            except RankLost as lost:
                assert lost.rank == victim, "another is dead"
                return True
            return None

        if until(look, Deadline(self.space.timeout_s)) is None:
            raise WaitTimeout(f"rank {victim} is dead and not said to be lost")

    def check(self, dead: list[int]) -> None:
        """Assert that living homes still answer and that asking a dead one raises RankLost."""
        for home in range(self.space.num_ranks):
            try:
                self.ask(home)
            except RankLost:
                assert home in dead, f"rank {home} lives"
            else:
                assert home not in dead, f"rank {home} is dead and answers"
