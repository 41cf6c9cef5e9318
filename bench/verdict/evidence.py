"""The evidence of the verdict as plain data: how each rank reaches each home, and the litmus tests' outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..harness.wire import Group, Part

REACH, LITMUS = "umem.bench.parts.reach:Reach", "umem.bench.parts.litmus:Litmus"
LOAD_STORE = "load/store"
NUM_INSTANCES = 100_000
FORBIDDEN = {"CoRR": (1, 0), "MP": (1, 0), "SB": (0, 0)}
SHAPES = {
    "CoRR": "a line never goes back to an older value (r0 = 1, r1 = 0)",
    "MP": "a flag never overtakes its data (r0 = 1, r1 = 0)",
    "SB": "two fenced stores are never both late (r0 = 0, r1 = 0)",
}


@dataclass(frozen=True)
class LitmusResult:
    """Histogram of one test's outcomes (r0, r1)."""

    test: str
    histogram: Mapping[tuple[int, int], int]

    @property
    def num_instances(self) -> int:
        """Outcomes seen."""
        return sum(self.histogram.values())

    @property
    def num_forbidden(self) -> int:
        """Outcomes that coherent memory never shows."""
        return self.histogram.get(FORBIDDEN[self.test], 0)

    @property
    def conclusion(self) -> str:
        """`forbidden`; `inconclusive` where only one outcome appeared (no overlap); or `ok`."""
        if self.num_forbidden:
            return "forbidden"
        return "ok" if len(self.histogram) > 1 else "inconclusive"


@dataclass(frozen=True)
class Evidence:
    """Routes by [rank][home]; sums by [rank][home] of words to which every rank has added 1; litmus results."""

    routes: Sequence[Sequence[str]]
    sums: Sequence[Sequence[int]]
    litmus: Sequence[LitmusResult] = ()

    @property
    def num_ranks(self) -> int:
        """Ranks of the world."""
        return len(self.routes)

    @property
    def is_one_address(self) -> bool:
        """Whether every rank found the right bytes at every address, and all their additions."""
        right = all(route for row in self.routes for route in row)
        return right and all(value == self.num_ranks for row in self.sums for value in row)

    @property
    def is_forbidden(self) -> bool:
        """Whether a litmus test showed an outcome that coherent memory never shows."""
        return any(result.num_forbidden for result in self.litmus)

    @property
    def islands(self) -> list[list[int]]:
        """Groups of ranks that reach each other by load and store, directly or through others of the group."""
        left = list(range(self.num_ranks))
        groups = []
        while left:
            group = [left.pop(0)]
            for rank in group:
                near = [other for other in left if self._are_mapped(rank, other)]
                group += near
                left = [other for other in left if other not in near]
            groups.append(sorted(group))
        return groups

    def _are_mapped(self, a: int, b: int) -> bool:
        return self.routes[a][b] == LOAD_STORE and self.routes[b][a] == LOAD_STORE


@dataclass(frozen=True)
class Speed:
    """Whether loads and stores of the peer's memory were timed, and their rate measured."""

    has_latency: bool = True
    has_rate: bool = True


@dataclass(frozen=True)
class Conclusion:
    """The conclusion and its reasons. `is_shown`: whether all evidence that it needs was measured."""

    line: str
    is_supernode: bool
    reasons: tuple[str, ...]
    is_shown: bool = True

    @property
    def last_line(self) -> str:
        """The conclusion with its evidence, in one line."""
        return "; ".join((self.line, *self.reasons))


def conclude(evidence: Evidence, speed: Speed = Speed()) -> Conclusion:
    """The conclusion, one memory or stacked servers: from reach and coherence alone, whatever the speed.

    Ranks that map each other are one island unless a litmus test showed a forbidden outcome: memory that
    is not coherent is no common memory, and every rank is an island then. They are a supernode only where all the
    evidence is there: every litmus test conclusive, latency and rate measured.
    """
    num_ranks = evidence.num_ranks
    islands = [[rank] for rank in range(num_ranks)] if evidence.is_forbidden else evidence.islands
    reasons = [_reach_reason(evidence)]
    reasons += [_litmus_reason(result) for result in evidence.litmus]
    if not evidence.is_one_address:
        reasons.append("some rank did not find what others had stored or added at an address")
    if num_ranks == 1:
        return Conclusion("one rank: neither a supernode nor a stack", False, tuple(reasons))
    if len(islands) == 1 and evidence.is_one_address and (lacks := _lacks(evidence, speed)):
        line = f"no verdict: {num_ranks} ranks reach each other's memory, but not shown: {', '.join(lacks)}"
        return Conclusion(line, False, tuple(reasons), is_shown=False)
    if len(islands) == 1 and evidence.is_one_address:
        return Conclusion(f"a supernode of {num_ranks} ranks", True, tuple(reasons))
    groups = ", ".join("{" + " ".join(map(str, island)) + "}" for island in islands)
    return Conclusion(f"stacked servers: {len(islands)} islands {groups}", False, tuple(reasons))


def _lacks(evidence: Evidence, speed: Speed) -> list[str]:
    """The evidence of a supernode that is missing here."""
    shown = {result.test for result in evidence.litmus if result.conclusion == "ok"}
    lacks = [f"litmus {test}" for test in FORBIDDEN if test not in shown]
    lacks += [] if speed.has_latency else ["the latency of loads and stores"]
    return lacks + ([] if speed.has_rate else ["the rate of loads and stores"])


def _reach_reason(evidence: Evidence) -> str:
    routes = [
        route for rank, row in enumerate(evidence.routes) for home, route in enumerate(row) if rank != home
    ]
    mapped = sum(route == LOAD_STORE for route in routes)
    others = sorted({route for route in routes if route and route != LOAD_STORE})
    by_others = f", the others by {', '.join(others)}" if others else ""
    return f"{mapped} of {len(routes)} pairs of ranks reach each other's memory by load and store{by_others}"


def _litmus_reason(result: LitmusResult) -> str:
    sentences = {
        "ok": f"0 of {result.num_instances} instances forbidden",
        "forbidden": f"{result.num_forbidden} of {result.num_instances} instances forbidden: NOT coherent",
        "inconclusive": f"inconclusive: one outcome in all {result.num_instances} instances, so no overlap",
    }
    return f"{result.test}: {sentences[result.conclusion]}"


def gather(ranks: Group, seed: int, num_instances: int = NUM_INSTANCES) -> Evidence:
    """Gather the evidence from every rank of a world. Litmus tests run where ranks 0 and 1 map each other."""
    part = Part(ranks, REACH)
    part.open()
    try:
        routes = part.call("routes")
        part.call("add")
        sums = part.call("sums")
    finally:
        part.close()
    evidence = Evidence(routes, sums)
    if evidence.num_ranks < 2 or len(evidence.islands[0]) < 2 or 1 not in evidence.islands[0]:
        return evidence
    return Evidence(routes, sums, run_litmus(ranks, seed, num_instances))


def run_litmus(ranks: Group, seed: int, num_instances: int) -> tuple[LitmusResult, ...]:
    """Every test, between ranks 0 and 1."""
    part = Part(ranks, LITMUS, seed=seed)
    part.open()
    try:
        return tuple(LitmusResult(test, part.call("run", test, num_instances)[0]) for test in FORBIDDEN)
    finally:
        part.close()
