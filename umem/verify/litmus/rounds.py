"""A litmus test on the memory of a world: rounds of many instances, played by all ranks, counted by rank 0.

In each round
    ranks are dealt anew to the lanes of the test: as many groups of lanes as the ranks make, each with places of
    its own, so that all ranks are busy, also where there are more of them than cores;
    the lines of a group get homes in turn, from a rank that changes: x and y never share one;
    its lanes store the first values of the places, an equal share of the instances each, then every rank loads all
    of them: every cache that may hold a copy has one;
    all lanes run, instance by instance, each from a moment of the clock that they share but for a little chance, so
    that their steps meet in many orders;
    they read the final values of the places.
The clock is one for all processes of a machine; on several machines lanes start a barrier apart.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count

import numpy as np

from ...space.space import Space
from .judge import End
from .lanes import ALL_INSTANCES, INSTANCES, LINE_BYTES, Lane, encode
from .litmus import Litmus, Step

LINE_WORDS = LINE_BYTES // 8
# How far ahead rank 0 sets the moment at which lanes begin, by memory and by messages: longer than a barrier takes.
LEAD_NS, FAR_LEAD_NS = 100_000, 1_000_000
CLOSENESS = (1.0, 0.25, 0.0625)
MORE_S = 0.5
UNPACED = 2  # rounds that measure how long an instance takes
SLACK = 1.5  # the period of instances, as a multiple of the slowest lane's time for one
# Bounds of the period. Ranks that share cores yield between instances, else a whole round passes in one turn of the
# scheduler. The longest bounds the effect of a lane that had lost its core while it was measured.
LEAST_NS, LEAST_SHARED_NS, MOST_NS = 400, 20_000, 1_000_000

CACHES = ("none", "back", "through")

_serial = count()  # every rank plays the same tests in the same order, so the numbers agree


@dataclass(frozen=True)
class Deal:
    """One round's lots, the same in every rank: `groups[g][lane]` is a rank, `homes` the ranks' order as homes."""

    groups: list[list[int]]
    homes: list[int]
    closeness: float  # of the moments at which lanes begin an instance, as a part of the time that it takes

    def place_of(self, rank: int) -> tuple[int, int] | None:
        """(group, lane) of a rank, or None where it has none in this round."""
        for number, group in enumerate(self.groups):
            if rank in group:
                return number, group.index(rank)
        return None


def deal(random: np.random.Generator, num_ranks: int, num_lanes: int) -> Deal:
    """Draw the lots of a round."""
    order = random.permutation(num_ranks).tolist()
    groups = [order[first : first + num_lanes] for first in range(0, num_ranks - num_lanes + 1, num_lanes)]
    homes = random.permutation(num_ranks).tolist()
    return Deal(groups, homes, float(random.choice(CLOSENESS)))


class Rounds:
    """A test with the memory it is played in. Made, played and closed in every rank."""

    def __init__(self, space: Space, litmus: Litmus, cache: str, seed: int):
        self.space, self.litmus = space, litmus
        self._num_groups = space.num_ranks // len(litmus.lanes)
        is_mapped = len(space.segments.mapped_ranks) == space.num_ranks
        self._lane = Lane(space, is_raw=is_mapped and cache == "none")
        self._codes = [encode(litmus, steps) for steps in litmus.lanes]
        self._reset = encode(litmus, [Step("store", place.name, (place.start,)) for place in litmus.places])
        self._warm, self._last = (
            encode(litmus, [Step("load", place.name, (), place.name) for place in places])
            for places in (litmus.places, litmus.watched)
        )
        self._random = np.random.default_rng(seed)  # the same numbers in every rank
        self._own_random = np.random.default_rng((seed, space.rank))
        has_own_core = space.num_ranks <= len(space.world.usable_cores)
        self._least_ns = LEAST_NS if has_own_core else LEAST_SHARED_NS
        self._period_ns = self._spread_ns = 0
        number = next(_serial)
        lines = (self._num_groups * litmus.num_lines * INSTANCES, LINE_WORDS)
        self._lines = [
            space.shared(f"litmus/{number}/{home}", lines, "int64", home, cache=cache, line=LINE_BYTES)
            for home in range(space.num_ranks)
        ]
        # The values that lanes have seen: a part for each lane's registers, and one for the final values.
        self._widths = [code.num_registers for code in (*self._codes, self._last)]
        seen = (self._num_groups, len(self._widths), INSTANCES, max(*self._widths, 1))
        self._seen = space.shared(f"litmus/{number}/seen", seen, "int64", 0)
        self._begin = space.shared(f"litmus/{number}/begin", 1, "int64", 0)
        self._lead_ns = LEAD_NS if is_mapped else FAR_LEAD_NS
        # Without caches there are no copies to warm.
        self._is_warmed = is_mapped or cache != "none"

    def play(self, num_instances: int) -> Counter[End]:
        """How often each end came, over at least `num_instances`; empty except at rank 0. Collective.

        A test that has shown one end alone goes on for MORE_S: where other programs take the cores, whole rounds
        pass in one turn of the scheduler.
        """
        self._set_pace()
        ends: Counter[End] = Counter()
        for _ in range(-(-num_instances // (INSTANCES * self._num_groups))):
            self._count_round(ends)
        until_s = time.monotonic() + MORE_S
        while self._rank_0_says(len(ends) == 1 and time.monotonic() < until_s):
            self._count_round(ends)
        return ends

    def close(self) -> None:
        """Free the memory. Collective."""
        self.space.barrier()
        if self.space.rank == 0:
            for array in (*self._lines, self._seen, self._begin):
                array.free()

    def _count_round(self, ends: Counter[End]) -> None:
        self._round()
        if self.space.rank == 0:
            ends.update(self._ends())

    def _rank_0_says(self, answer: bool) -> bool:
        """Rank 0's `answer`, in every rank."""
        return bool(self.space.world.exchange("litmus/more", b"yes" if answer else b"")[0])

    def _round(self) -> int:
        """Play a round; returns how long this rank's lane took, in ns."""
        dealt = deal(self._random, self.space.num_ranks, len(self.litmus.lanes))
        mine = dealt.place_of(self.space.rank)
        places = [self._places(group, dealt.homes) for group in range(self._num_groups)]
        if mine is not None:
            group, lane = mine
            share = self._share(lane)
            self._lane.run(self._reset, places[group], share)
        self.space.barrier()
        if self._is_warmed:
            for each in places:
                self._lane.run(self._warm, each)
        begin_ns = self._agree()
        took_ns = 0 if mine is None else self._play_lane(*mine, places[group], begin_ns, dealt.closeness)
        self.space.barrier()
        if mine is not None:
            self._report(group, len(self._codes), self._lane.run(self._last, places[group], share), share)
        self.space.barrier()
        return took_ns

    def _share(self, lane: int) -> range:
        """The instances whose words this lane sets before the round and reads after it."""
        num_lanes = len(self.litmus.lanes)
        return range(INSTANCES * lane // num_lanes, INSTANCES * (lane + 1) // num_lanes)

    def _play_lane(self, group: int, lane: int, places: np.ndarray, begin_ns: int, closeness: float) -> int:
        chance_ns = self._own_random.integers(0, int(self._spread_ns * closeness) + 1, INSTANCES)
        moments = np.arange(INSTANCES) * self._period_ns + chance_ns
        started_ns = max(time.monotonic_ns(), begin_ns)
        results = self._lane.run(self._codes[lane], places, ALL_INSTANCES, begin_ns, moments)
        took_ns = time.monotonic_ns() - started_ns
        self._report(group, lane, results)
        return took_ns

    def _agree(self) -> int:
        """The moment at which the round begins."""
        self.space.barrier()
        if self.space.rank == 0:
            self.space.store(self._begin.address, time.monotonic_ns() + self._lead_ns, "int64")
        self.space.barrier()
        return int(self.space.load(self._begin.address, "int64"))

    def _set_pace(self) -> None:
        """Measure the slowest lane's time for an instance, in rounds that do not count: their lanes do not wait, so a
        short one ends before the others begin."""
        took_ns = [self._round() for _ in range(UNPACED)]
        of_all = self.space.world.exchange("litmus/pace", json.dumps(took_ns).encode())
        slowest_ns = min(map(max, zip(*map(json.loads, of_all), strict=True)))
        self._spread_ns = slowest_ns // INSTANCES
        self._period_ns = min(max(int(self._spread_ns * SLACK), self._least_ns), MOST_NS)

    def _places(self, group: int, homes: list[int]) -> np.ndarray:
        """Address of each place's first instance."""
        addresses = []
        for place in self.litmus.places:
            home = homes[(group + place.line) % len(homes)]
            first = (group * self.litmus.num_lines + place.line) * INSTANCES
            addresses.append(self._lines[home].address_of(first, place.word))
        return np.array(addresses, np.int64)

    def _report(self, group: int, part: int, results: np.ndarray, instances: range = ALL_INSTANCES) -> None:
        """Put the values of these instances where rank 0 counts them."""
        if results.size:
            start = self._seen.address_of(group, part, 0, 0)
            self.space.put(start + instances.start * results[0].nbytes, results)

    def _ends(self) -> Counter[End]:
        """The ends of the round, counted."""
        parts = self._seen.read()
        columns = []
        for part, width in enumerate(self._widths):
            flat = parts[:, part].reshape(self._num_groups, -1)[:, : INSTANCES * width]
            columns.append(flat.reshape(self._num_groups * INSTANCES, width))
        rows, counts = np.unique(np.concatenate(columns, axis=1), axis=0, return_counts=True)
        return Counter(dict(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True)))
