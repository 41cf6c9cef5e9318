"""The sharing patterns of Weber and Gupta (1989), by two ranks on the same lines."""

from __future__ import annotations

from collections.abc import Sequence

from umem import limits
from umem.units import KIB, MIB
from umem.world.spec import HOSTS, MAPPED, NO_PEER_ACCESS

from ..harness.side import NO_SEMANTICS, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .coherence import LINE_BYTES, MEASURED_ATTRIBUTES, CachedSide, CoherenceCase, transport
from .registry import register

TURNS = "umem.bench.parts.coherence_turns"
ROWS = "umem.bench.parts.coherence_rows"
_MESSAGE = "umem.bench.parts.message:Message"
NUM_TURNS = {MAPPED: 2000, NO_PEER_ACCESS: 40, HOSTS: 10}
NUM_ACCESSES = {MAPPED: 16_384, NO_PEER_ACCESS: 512, HOSTS: 64}
NUM_READS = {NO_PEER_ACCESS: 1024, HOSTS: 256}
NUM_DRAWS = {NO_PEER_ACCESS: 1 << 18, HOSTS: 1 << 16}
_LINE_ROUNDS = 20_000
ROW_BYTES = 256
MIGRANT_LINES, TABLE_LINES, LOADS_A_STORE = 8, 1024, 64
MANY_ROWS, FEW_ROWS, CACHED_SHARE = 1 << 20, 1 << 14, 4


def turns(
    case: CoherenceCase,
    workers: Workers,
    method: str,
    num_bytes: int,
    attributes: Sequence[str] = MEASURED_ATTRIBUTES,
) -> list[Side]:
    """A side for each attribute, of two ranks that work in turn."""
    number = max(NUM_TURNS[workers.options.world] // max(num_bytes // (2 * KIB), 1), 4)
    arguments = {"num_bytes": num_bytes, "num_turns": number}
    return [
        CachedSide(
            attribute,
            Part(workers.ranks(), f"{TURNS}:Turns", attribute=attribute, **arguments),
            method,
            case,
            workers,
            attribute,
        )
        for attribute in attributes
    ]


@register
class HandOver(CoherenceCase):
    """A line that two ranks store to in turn."""

    key = "coherence.hand_over"
    description = (
        "ranks 0 and 1 store to one line in turn, a sample is one hand-over;"
        " line: the hardware's, there and back"
    )
    limit_side = "line"

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        sides = turns(self, workers, "update", 0)
        if workers.options.world == MAPPED:
            part = Part(workers.ranks(), f"{TURNS}:RawLine", num_rounds=_LINE_ROUNDS)
            sides.append(
                PartSide("line", NO_SEMANTICS, part, "load_store", peer="raw line", transport="mapped")
            )
        return [*sides, self.message(workers, point.num_bytes, _MESSAGE)]


@register
class Migratory(CoherenceCase):
    """Data that the ranks update one after the other."""

    key = "coherence.migratory"
    description = (
        f"ranks 0 and 1 add to each of {MIGRANT_LINES} lines in turn, a sample is a turn; message: sent over"
    )

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(MIGRANT_LINES * LINE_BYTES)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [
            *turns(self, workers, "update", point.num_bytes),
            self.message(workers, point.num_bytes, _MESSAGE),
        ]


@register
class ProducerConsumer(CoherenceCase):
    """Blocks that one rank writes and the other reads."""

    key = "coherence.producer_consumer"
    description = (
        "rank 0 writes a block, rank 1 reads it and says so; a sample is both; message: sent and answered"
    )

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=LINE_BYTES, most=64 * KIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(2 * KIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [*turns(self, workers, "transfer", point.num_bytes), self.message(workers, point.num_bytes)]


@register
class ReadMostly(CoherenceCase):
    """A table that is read at random, and seldom changed."""

    key = "coherence.read_mostly"
    description = (
        f"ranks 0 and 1 load random words of {TABLE_LINES} lines, every {LOADS_A_STORE}th access adds;"
        " message: asks for a word"
    )

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments = {
            "num_lines": TABLE_LINES,
            "period": LOADS_A_STORE,
            "num_accesses": NUM_ACCESSES[workers.options.world],
            "seed": workers.options.seed,
        }
        sides: list[Side] = [
            CachedSide(
                attribute,
                Part(workers.ranks(), f"{TURNS}:Mixed", attribute=attribute, **arguments),
                "access",
                self,
                workers,
                attribute,
            )
            for attribute in MEASURED_ATTRIBUTES
        ]
        return [*sides, self.message(workers, point.num_bytes)]


@register
class FalseSharing(CoherenceCase):
    """Words of two ranks in one line."""

    key = "coherence.false_sharing"
    description = (
        "ranks 0 and 1 each add to a word of its own, in one line (same=1) or in two;"
        " message: both tell each other their word"
    )

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8, (("same", same),)) for same in (0, 1)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        arguments = {
            "same_line": int(point.setting("same", 1)),
            "num_accesses": NUM_ACCESSES[workers.options.world],
        }
        sides: list[Side] = [
            CachedSide(
                attribute,
                Part(workers.ranks(), f"{TURNS}:Neighbours", attribute=attribute, **arguments),
                "add",
                self,
                workers,
                attribute,
            )
            for attribute in MEASURED_ATTRIBUTES
        ]
        return [*sides, self.message(workers, point.num_bytes, "umem.bench.parts.exchange:Message")]


@register
class Zipf(CoherenceCase):
    """Popular rows of a remote table."""

    key = "coherence.zipf"
    description = (
        "rank 0 reads rows of a table of rank 1 that it does not map, zipf 1.05, again and again:"
        " by a cache of a quarter of the table, by a get each, by messages"
    )
    semantics = ("load_store", "rma", "message")
    worlds = (NO_PEER_ACCESS, HOSTS)
    budget_s = 10.0

    def points(self, options: Options) -> Sequence[Point]:
        fits = limits.available_memory_bytes() > 4 * MANY_ROWS * ROW_BYTES
        return [Point(ROW_BYTES, (("rows", MANY_ROWS if fits else FEW_ROWS),))]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(ROW_BYTES, (("rows", FEW_ROWS),))]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        num_rows = int(point.setting("rows", FEW_ROWS))
        ranks = workers.ranks(
            num_ranks=2,
            segment_bytes=max(4 * num_rows * ROW_BYTES, 64 * MIB),
            line_cache=str(num_rows * ROW_BYTES // CACHED_SHARE),
        )
        arguments = {
            "num_rows": num_rows,
            "num_draws": NUM_DRAWS[workers.options.world] * num_rows // MANY_ROWS,
            "num_reads": NUM_READS[workers.options.world],
            "seed": workers.options.seed,
        }
        cached = Part(ranks, f"{ROWS}:CachedRows", attribute="back", **arguments)
        fetched = Part(ranks, f"{ROWS}:FetchedRows", **arguments)
        return [
            CachedSide("cached", cached, "read", self, workers, "back"),
            PartSide("uncached", "rma", fetched, "get", transport=transport(workers)),
            self.message(workers, point.num_bytes),
        ]
