"""Workloads, each in every semantics that makes sense, over sizes: they show where memory stops to win."""

from __future__ import annotations

from collections.abc import Sequence

from umem.units import KIB, MIB
from umem.world.spec import MAPPED

from .. import peers
from ..harness.case import Case
from ..harness.side import Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register

ROW_BYTES = 256
PAIR = 2  # ranks


def pair_sides(
    workers: Workers, module: str, sides: dict[str, tuple[str, str]], **arguments: object
) -> list[Side]:
    """Sides {name: (class, semantics)} of a module of parts, two ranks; `Mapped` only where it can be."""
    ranks = workers.ranks(num_ranks=PAIR)
    parts = {
        kind: Part(ranks, f"umem.bench.parts.{module}:{kind}", **arguments) for kind, _ in sides.values()
    }
    transport = workers.options.transport
    made: list[Side] = []
    for name, (kind, semantics) in sides.items():
        needs_map = kind == "Mapped"
        if needs_map and workers.options.world != MAPPED:
            continue
        peer = "c" if name == "c" else None
        way = "mapped" if needs_map else transport
        made.append(PartSide(name, semantics, parts[kind], peer=peer, transport=way, needs_c=name == "c"))
    return made


@register
class GatherSum(Case):
    """Pooled look-up."""

    key = "gather_sum"
    description = (
        "rank 0 sums rows of 256 B of a table at rank 1: loads, the home's user code, rows sent over"
    )
    semantics = ("load_store", "message", "staged", "near")
    limit_side = "c"
    most_samples = 100
    budget_s = 4.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=ROW_BYTES, most=4 * MIB) if size % ROW_BYTES == 0]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(rows * ROW_BYTES) for rows in (1, 16, 256, 4096)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        sides = {
            "load_store": ("Mapped", "load_store"),
            "c": ("Mapped", "none"),
            "message": ("Asked", "message"),
            "staged": ("Asked", "staged"),
            "near": ("Asked", "near"),
        }
        num_rows = point.num_bytes // ROW_BYTES
        return pair_sides(workers, "gather_sum", sides, num_rows=num_rows, seed=workers.options.seed)


@register
class Reduce(Case):
    """All-reduce of two ranks."""

    key = "reduce"
    description = (
        "all-reduce (sum of float32) of two ranks: over mapped memory, by messages, added at the home"
    )
    semantics = ("load_store", "message", "near")
    most_samples = 50
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=8, most=16 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8), Point(16 * KIB), Point(256 * KIB), Point(4 * MIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        sides = {
            "load_store": ("Mapped", "load_store"),
            "message": ("Message", "message"),
            "near": ("Near", "near"),
        }
        found = pair_sides(workers, "reduce", sides, num_bytes=point.num_bytes)
        return [*found, *peers.sides(workers, "reduce", point)]


@register
class Exchange(Case):
    """Two ranks swap blocks."""

    key = "exchange"
    description = "two ranks swap blocks: stores into each other's memory and a flag, or a send and a receive"
    semantics = ("load_store", "message")
    most_samples = 50
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(least=8, most=4 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8), Point(4 * KIB), Point(64 * KIB), Point(MIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        sides = {"load_store": ("Mapped", "load_store"), "message": ("Message", "message")}
        found = pair_sides(workers, "exchange", sides, num_bytes=point.num_bytes)
        return [*found, *peers.sides(workers, "exchange", point)]
