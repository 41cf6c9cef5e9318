"""The cost of hits, misses and upgrades of one rank's copies of a peer's lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from umem.units import KIB
from umem.world.spec import HOSTS, MAPPED, NO_PEER_ACCESS

from .. import peers
from ..harness.case import Case
from ..harness.side import NO_SEMANTICS, Measured, Options, PartSide, Point, Side
from ..harness.stats import Samples
from ..harness.wire import Group, Part
from ..harness.workers import Workers
from .registry import register

_PARTS = "umem.bench.parts.coherence"
LINE_BYTES = 128
LINE_SIZES = (LINE_BYTES, 4 * KIB)  # the default one and the largest
HIT_LINES, HIT_BATCH = 64, 64 * 256
SMALL_CACHE = "64K"
MISS_LINES = 2048  # four times the lines of the small cache, and no more than fit the processor's
MISS_ACCESSES = {MAPPED: 2048, NO_PEER_ACCESS: 512, HOSTS: 64}
UPGRADE_LINES = {MAPPED: 512, NO_PEER_ACCESS: 64, HOSTS: 16}
PAIR = 2  # ranks
MEASURED_ATTRIBUTES = ("back", "through", "none")


def transport(workers: Workers) -> str:
    """The transport to a peer's memory in the world of this run."""
    return "mapped" if workers.options.world == MAPPED else workers.options.transport


class CachedSide(PartSide):
    """A side that uses cached memory; when it closes it hands its part's counters to its case."""

    def __init__(
        self,
        name: str,
        part: Part,
        method: str,
        case: CoherenceCase,
        workers: Workers,
        cache: str,
        detail: str = "",
    ):
        super().__init__(
            name, "load_store", part, method, transport=transport(workers), detail=detail, cache=cache
        )
        self._case = case

    def block(self, num_samples: int) -> Samples:
        self._part.call("begin_count", only=0)
        samples = super().block(num_samples)
        self._part.call("end_count", only=0)
        return samples

    def close(self) -> None:
        if self._part.group.is_alive:
            self._case.counted[self.cache] = self._part.call("counted", only=0)[0]
        super().close()


class CoherenceCase(Case):
    """A case of cached memory: its sides for each attribute, and their counters as remarks."""

    semantics: ClassVar[tuple[str, ...]] = ("load_store", "message")
    most_samples = 20
    budget_s = 3.0

    def __init__(self) -> None:
        self.counted: dict[str, Mapping[str, int]] = {}  # by rank 0, for each attribute

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def message(self, workers: Workers, num_bytes: int, kind: str = f"{_PARTS}:Asked") -> Side:
        """A side that does the same by messages of `num_bytes`."""
        part = Part(workers.ranks(), kind, num_bytes=num_bytes)
        way = workers.options.transport
        return PartSide("message", "message", part, transport=way)

    def unit(self, ranks: Group) -> Side:
        """A side of one compare-and-swap on private memory."""
        return PartSide("compare_swap", NO_SEMANTICS, Part(ranks, f"{_PARTS}:Unit"), peer="own CAS")

    def least(self, ranks: Group, verbs: Sequence[str], num_lines: int, num_accesses: int) -> list[Side]:
        """Sides that do the same steps on private memory, without a protocol."""
        part = Part(ranks, f"{_PARTS}_least:Least", num_lines=num_lines, num_accesses=num_accesses)
        return [
            PartSide(f"least_{verb}", NO_SEMANTICS, part, verb, peer="bare steps", detail=verb)
            for verb in verbs
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0

    def remarks(self, measured: Measured) -> Sequence[str]:
        """Rank 0's cache counters at this point, warm-up included."""
        remarks = []
        for cache in [cache for cache, counters in self.counted.items() if counters]:
            words = ", ".join(f"{counter} {number}" for counter, number in self.counted[cache].items())
            remarks.append(f"{measured.point.label or measured.point.num_bytes}: {cache}: {words}")
        self.counted = {}
        return remarks


@register
class Hit(CoherenceCase):
    """Accesses to lines of which a rank has copies."""

    key = "coherence.hit"
    description = (
        "rank 0 uses its copies of 64 lines of rank 1, a sample is the mean of 16,384;"
        " threads=2: another thread of the rank loads them all the time; bare steps: without a protocol"
    )
    semantics = ("load_store",)
    limit_side = "compare_swap"

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8, (("threads", number),)) for number in (1, 2)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        ranks, num_threads = workers.ranks(), int(point.setting("threads", 1))
        verbs = {"back": ("load", "store", "fetch_add"), "through": ("load",)}
        walk = {"num_lines": HIT_LINES, "num_accesses": HIT_BATCH}
        sides: list[Side] = []
        for attribute in verbs:
            part = Part(ranks, f"{_PARTS}:Hits", attribute=attribute, num_threads=num_threads, **walk)
            for verb in verbs[attribute]:
                if num_threads == 1 or verb == "load":
                    name = f"{attribute}_{verb}"
                    sides.append(CachedSide(name, part, verb, self, workers, attribute, verb))
        sides += self.least(ranks, verbs["back"] if num_threads == 1 else ("load",), **walk)
        return [*sides, self.unit(ranks)]


@register
class Lines(CoherenceCase):
    """Copies of whole lines."""

    key = "coherence.lines"
    description = (
        "rank 0 copies a block from and to lines of rank 1 that it owns, of `line` bytes;"
        " plain: between two of its own"
    )
    semantics = ("load_store",)
    limit_side = "plain"

    def points(self, options: Options) -> Sequence[Point]:
        sizes = options.sizes(least=LINE_BYTES, most=256 * KIB)
        return [self._point(size, line) for size in sizes for line in LINE_SIZES if line <= size]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [self._point(16 * KIB, line) for line in LINE_SIZES]

    @staticmethod
    def _point(num_bytes: int, line: int) -> Point:
        return Point(num_bytes, (("line", line),))

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments = {"num_bytes": point.num_bytes, "line": int(point.setting("line", LINE_BYTES))}
        part = Part(workers.ranks(), f"{_PARTS}:Lines", attribute="back", **arguments)
        verbs = ("read", "write")
        sides = [CachedSide(verb, part, verb, self, workers, "back", verb) for verb in verbs]
        return [*sides, PartSide("plain", NO_SEMANTICS, part, peer="plain copy")]

    def bytes_moved(self, point: Point) -> int:
        return point.num_bytes


@register
class Miss(CoherenceCase):
    """Accesses to lines that a rank has no copy of, with a full cache."""

    key = "coherence.miss"
    description = (
        f"rank 0 walks round lines of rank 1 with a cache of {SMALL_CACHE}: each access misses and evicts;"
        " message: asks for a line; bare steps: without a protocol"
    )
    limit_side = "compare_swap"

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(LINE_BYTES)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        ranks = workers.ranks(line_cache=SMALL_CACHE)
        arguments = {"num_lines": MISS_LINES, "num_accesses": MISS_ACCESSES[workers.options.world]}
        sides: list[Side] = []
        for attribute in MEASURED_ATTRIBUTES:
            part = Part(ranks, f"{_PARTS}:Misses", attribute=attribute, **arguments)
            sides += [
                CachedSide(f"{attribute}_{verb}", part, verb, self, workers, attribute, verb)
                for verb in ("read", "write")
            ]
        if workers.options.world == MAPPED:
            sides += self.least(ranks, ("read", "write"), MISS_LINES, MISS_ACCESSES[MAPPED])
        sides += [self.message(workers, point.num_bytes), self.unit(ranks)]
        return [*sides, *peers.sides(workers, "am", point)]


@register
class Upgrade(CoherenceCase):
    """Stores to lines of which a rank has a shared copy."""

    key = "coherence.upgrade"
    description = (
        "rank 0 stores to lines of rank 1 that both have read; message: sends a word and hears of it"
    )
    limit_side = "compare_swap"

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        ranks, num_lines = workers.ranks(), UPGRADE_LINES[workers.options.world]
        part = Part(ranks, f"{_PARTS}:Upgrades", attribute="back", num_lines=num_lines)
        side = CachedSide("back", part, "store", self, workers, "back")
        return [side, self.message(workers, point.num_bytes), self.unit(ranks)]
