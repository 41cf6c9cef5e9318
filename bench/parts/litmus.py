"""Litmus tests on raw mapped words, between ranks 0 and 1."""

from __future__ import annotations

from collections import Counter

import numpy as np

from umem.bench.parts.litmus_lanes import MAX_DELAY, STRIDE_WORDS, lane_corr, lane_mp, lane_sb, warm_lines
from umem.space.space import Space

from .base import SpacePart, check

INSTANCES = 256  # a round
LANES = {"CoRR": lane_corr, "MP": lane_mp, "SB": lane_sb}
BOTH_OBSERVE = ("SB",)  # the outcome has a register of each lane


class Litmus(SpacePart):
    """x and y live at different ranks; roles and homes change from round to round."""

    def __init__(self, space: Space, seed: int):
        super().__init__(space)
        num_bytes = INSTANCES * STRIDE_WORDS * 8
        self.arrays = [self.shared(num_bytes, home=home) for home in (0, 1)]
        self.out = [self.shared(INSTANCES * 8, home=home) for home in (0, 1)]
        self.met = [self.shared(128, home=home).address for home in (0, 1)]
        self.num_met = 0
        self.random = np.random.default_rng(seed)  # the same numbers in every rank: roles and homes
        self.own_random = np.random.default_rng((seed, self.rank))

    def run(self, test: str, num_instances: int) -> dict[tuple[int, int], int] | None:
        """Histogram of (r0, r1) over at least `num_instances`, at rank 0."""
        lane_of = LANES[test].compiled
        histogram: Counter[tuple[int, int]] = Counter()
        for _ in range(-(-num_instances // INSTANCES)):
            swaps_roles, swaps_homes = self.random.integers(0, 2, 2)
            x, y = (array.address for array in (self.arrays[::-1] if swaps_homes else self.arrays))
            writer = int(swaps_roles)
            self._begin(x, y)
            if self.rank < 2:
                delays = self.own_random.integers(0, MAX_DELAY, INSTANCES)
                meeting = (self.met[self.rank], self.met[1 - self.rank], self.num_met, delays.ctypes.data)
                lane = (x, y, self.out[self.rank].address, self.rank ^ writer, INSTANCES)
                check(lane_of(self.space.control, *meeting, *lane, self.deadline_ns()))
            self.num_met += INSTANCES
            self.space.barrier()
            if self.rank == 0:
                histogram.update(self._outcomes(test, writer))
        return dict(histogram) if self.rank == 0 else None

    def _begin(self, x: int, y: int) -> None:
        """Zero all words, then have both lanes hold every line."""
        self.space.barrier()
        if self.rank == 0:
            for array in self.arrays:
                array.numpy()[:] = 0
        self.space.barrier()
        if self.rank < 2:
            warm_lines(x, y, INSTANCES)
        self.space.barrier()

    def _outcomes(self, test: str, writer: int) -> list[tuple[int, int]]:
        lanes = [self.out[lane ^ writer].numpy().view(np.int64) for lane in (0, 1)]
        if test in BOTH_OBSERVE:
            return list(zip(lanes[0].tolist(), lanes[1].tolist(), strict=True))
        return [(value >> 1, value & 1) for value in lanes[1].tolist()]
