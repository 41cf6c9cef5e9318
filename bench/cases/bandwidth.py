"""Bytes a second: copies from the peer's memory, out of DRAM and out of caches, and streams of messages."""

from __future__ import annotations

from collections.abc import Sequence

from umem.units import KIB, MIB

from .. import peers
from ..harness.case import Case
from ..harness.side import STREAM_WINDOW, Options, PartSide, Point, Side
from ..harness.wire import Part
from ..harness.workers import Workers
from .registry import register

ROTATION_BYTES = 256 * MIB  # of source, and as much of destination: many times any cache here


def copy_sides(workers: Workers, point: Point, rotation_bytes: int) -> list[Side]:
    """umem's copy kernel and C, over the same memory in the same rank."""
    part = Part(
        workers.ranks(),
        "umem.bench.parts.bandwidth:Copy",
        num_bytes=point.num_bytes,
        rotation_bytes=rotation_bytes,
        seed=workers.options.seed,
    )
    return [
        PartSide("load_store", "load_store", part, transport="mapped"),
        PartSide("libc", "none", part, needs_c=True, peer="libc memcpy", transport="mapped"),
        PartSide("c_stream", "none", part, needs_c=True, peer="c, nontemporal", transport="mapped"),
    ]


@register
class Copy(Case):
    """Copies that find nothing in a cache."""

    key = "bandwidth.copy"
    description = "rank 0 copies from the peer's memory, through 256 MiB in turn: DRAM to DRAM"
    semantics = ("load_store",)
    about = "rate"
    worlds = ("mapped",)
    limit_side = "c_stream"
    most_samples = 4
    budget_s = 5.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in multiples_of_256(options, most=64 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(MIB), Point(64 * MIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return copy_sides(workers, point, ROTATION_BYTES)


@register
class CachedCopy(Case):
    """Copies of one block again and again."""

    key = "bandwidth.copy_cached"
    description = (
        "rank 0 copies one block of the peer's memory again and again: as much as fits stays in caches"
    )
    semantics = ("load_store",)
    about = "rate"
    worlds = ("mapped",)
    limit_side = "libc"
    most_samples = 20
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in multiples_of_256(options, most=8 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(16 * KIB), Point(256 * KIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return copy_sides(workers, point, point.num_bytes)


@register
class Stream(Case):
    """Messages one way."""

    key = "bandwidth.message"
    description = (
        "messages from rank 0 to rank 1 out of one buffer, 16 in flight; a sample is the mean of a batch"
    )
    semantics = ("message",)
    about = "rate"
    most_samples = 10
    budget_s = 3.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(size) for size in options.sizes(most=4 * MIB)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(MIB)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        part = Part(
            workers.ranks(),
            "umem.bench.parts.message:Stream",
            num_bytes=point.num_bytes,
            window=STREAM_WINDOW,
            num_messages=max(16, min(2000, 8 * MIB // point.num_bytes)),
        )
        transport = workers.options.transport
        return [
            PartSide("message", "message", part, transport=transport),
            *peers.sides(workers, "stream", point),
        ]


def multiples_of_256(options: Options, most: int) -> list[int]:
    """Sizes of the sweep that a C loop of whole vectors copies."""
    return list(dict.fromkeys((size + 255) // 256 * 256 for size in options.sizes(least=256, most=most)))
