"""The heap under deaths: survivors allocate on, blocks keep their contents, dead ranks own nothing at the end."""

from __future__ import annotations

import numpy as np

from ...errors import OutOfMemory, RankLost, WaitTimeout
from ...space.space import Space
from ...world.waiting import Deadline, until
from .journal import Journal

MAX_HELD = 12
_NUM_WORDS = (8, 100, 3000, 40_000)


class HeapWork:
    """Blocks of random sizes at random homes, each filled with a number, which is checked when the block is freed."""

    def __init__(self, space: Space, journal: Journal, rng: np.random.Generator):
        self.space, self.rng = space, rng
        self.held: list[tuple[int, int, int, int]] = []  # address, words, number, home
        self.before = self.owned([])
        space.barrier()

    def step(self) -> None:
        """Allocate a block and fill it, or check one and free it."""
        if self.held and (len(self.held) == MAX_HELD or self.rng.random() < 0.5):
            self.drop(int(self.rng.integers(len(self.held))))
            return
        home, number = int(self.rng.integers(self.space.num_ranks)), int(self.rng.integers(1 << 60))
        num_words = int(self.rng.choice(_NUM_WORDS))
        try:
            address = self.space.alloc(8 * num_words, home=home)
        except OutOfMemory:
            return
        self.space.put(address, np.full(num_words, number))
        self.held.append((address, num_words, number, home))

    def drop(self, index: int) -> None:
        """Check a block and free it."""
        address, num_words, number, _ = self.held.pop(index)
        found = np.empty(num_words, np.int64)
        self.space.get(found, address)
        assert (found == number).all(), f"the block at {address:#x} holds another's words"
        self.space.free(address)

    def recover(self, victim: int) -> None:
        """Wait until the death is known, reclaim the blocks that the dead rank had here, and allocate."""
        deadline = Deadline(self.space.timeout_s)
        if until(lambda: victim in self.space.page.dead_ranks() or None, deadline) is None:
            raise WaitTimeout(f"the death of rank {victim} is not noticed")
        self.space.heap.reclaim()
        self.space.free(self.space.alloc(4096))

    def check(self, dead: list[int]) -> None:
        """Free everything, and assert that neither this rank nor, in its segments, a dead one owns an allocation."""
        while self.held:
            try:
                self.drop(len(self.held) - 1)
            except RankLost as lost:
                assert lost.rank in dead, "no other rank dies"
        self.space.heap.reclaim()
        self.space.heap.trim()
        left = self.owned(dead) - self.before
        assert not left, f"allocations that nobody frees: {left}"

    def owned(self, dead: list[int]) -> set[tuple[int, int]]:
        """Allocations of this rank, and of the dead in its own segments."""
        rank = self.space.rank
        return {
            (one.address, one.generation)
            for one in self.space.heap.snapshot()
            if one.owner == rank or (one.owner in dead and self.space.segments.map.home(one.address) == rank)
        }
