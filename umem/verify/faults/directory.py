"""Cached memory under deaths: sums stay exact, clean copies survive, lost lines are poisoned until they are reset."""

from __future__ import annotations

import numpy as np

from ...errors import LinePoisoned, RankLost, WaitTimeout
from ...space.space import Space
from ...world.waiting import Deadline, until
from .journal import JOURNAL_INTENT, JOURNAL_LOST, JOURNAL_REPORTED, NUM_COUNTERS, Journal
from .play import victims

_LINE_BYTES = 64
NUM_CONSTANTS = 64
DTYPE = "int64"


class DirectoryWork:
    """Counters at every home, raised by all ranks; a line for each rank, which it owns; constants read by all."""

    def __init__(self, space: Space, journal: Journal, rng: np.random.Generator):
        self.space, self.journal, self.rng = space, journal, rng
        self.num_lost = 0
        last = space.num_ranks - 1
        homes = [number % space.num_ranks for number in range(NUM_COUNTERS)]
        self.homes = homes
        self.counters = [
            space.shared(f"counter-{number}", 8, DTYPE, home=home, cache="back", line=_LINE_BYTES).address
            for number, home in enumerate(homes)
        ]
        # A line that each rank owns alone. Their home is the survivor that does not kill.
        self.own = space.shared("own", (space.num_ranks, 8), DTYPE, home=last, cache="back", line=_LINE_BYTES)
        self.constants = space.shared(
            "constants", NUM_CONSTANTS, DTYPE, home=last, cache="back", line=_LINE_BYTES
        )
        if space.rank == 0:
            self.constants.write(np.arange(NUM_CONSTANTS) * 3)
        space.barrier()
        self.seen = [0] * NUM_COUNTERS
        self.all_mapped = all(map(space.world.may_map, range(space.num_ranks)))

    def step(self) -> None:
        """Raise a counter, and touch the own line and a constant."""
        word = int(self.rng.integers(NUM_CONSTANTS))
        assert self.space.load(self.constants.address_of(word), DTYPE) == 3 * word, "a clean copy is wrong"
        self.space.fetch_add(self.own.address_of(self.space.rank, 0), 1)
        counter = int(self.rng.integers(NUM_COUNTERS))
        row = self.journal.rows[self.space.rank]
        row[JOURNAL_INTENT] = counter + 1
        try:
            value = self.space.fetch_add(self.counters[counter], 1) + 1
        except LinePoisoned as lost:
            self.lift(lost, counter)
        except RankLost as lost:
            row[JOURNAL_INTENT] = 0
            # A mapped home needs its agent where a copy is elsewhere.
            assert not self.all_mapped, "the memory of the dead is mapped"
            assert lost.rank == self.homes[counter] and lost.rank in victims(self.space.num_ranks), "it lives"
        else:
            row[JOURNAL_REPORTED + counter] += 1
            row[JOURNAL_INTENT] = 0
            is_back = value <= self.seen[counter] and not self.journal.is_lost(counter)
            assert not is_back, f"counter {counter} goes back from {self.seen[counter]} to {value}"
            self.seen[counter] = value

    def lift(self, lost: LinePoisoned, counter: int) -> None:
        """Note in the journal that a counter's line was lost, and reset the line."""
        row = self.journal.rows[self.space.rank]
        row[JOURNAL_LOST + counter] = 1
        row[JOURNAL_INTENT] = 0
        assert lost.address == self.counters[counter], "the error names the address"
        self.space.cache.reset(lost.address)
        self.num_lost += 1

    def recover(self, victim: int) -> None:
        """Add to the line that `victim` owned: it is salvaged where memory is mapped, else poisoned, and then reset."""
        address = self.own.address_of(victim, 0)

        def look() -> int | None:
            try:
                return int(self.space.fetch_add(address, 1))
            except LinePoisoned as lost:
                assert lost.address == address, "the error names the address"
                assert not self.all_mapped, "what the dead owned lies in memory that is mapped"
                self.space.cache.reset(address)
                self.num_lost += 1
                return None

        if until(look, Deadline(self.space.timeout_s)) is not None:
            return
        raise WaitTimeout(f"the line at {address:#x}, which rank {victim} had, is not usable again")

    def check(self, dead: list[int]) -> None:
        """Assert that every counter is the sum of all reports, or above it by at most the additions in doubt."""
        for counter, home in enumerate(self.homes):
            if home in dead and not self.all_mapped:
                continue
            least = self.journal.reported(counter)
            most = least + self.journal.in_doubt(counter, dead)
            try:
                value = self.space.load(self.counters[counter], DTYPE)
            except LinePoisoned as lost:
                self.lift(lost, counter)
                value = self.space.load(self.counters[counter], DTYPE)
            assert value <= most, f"counter {counter} is {value}, and was raised {most} times"
            is_exact = value >= least or self.journal.is_lost(counter)
            assert is_exact, f"counter {counter} is {value}, and was raised {least} times"
        expected = 3 * np.arange(NUM_CONSTANTS)
        assert np.array_equal(self.constants.read(), expected), "a clean copy is wrong"
