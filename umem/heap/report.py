"""The contents of the heap by owner, as plain values, and the text of OutOfMemory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..kernels.heap.layout import BLOCK_BYTES, SPAN_BYTES
from ..kernels.heap.record import WORLD_RANK
from ..kernels.heap.usage import (
    LIST_ADDRESS,
    LIST_BYTES,
    LIST_GENERATION,
    LIST_OWNER,
    LIST_REFERENCES,
    OWNER_ASKED_BYTES,
    OWNER_CACHED_BYTES,
    OWNER_COUNT,
    OWNER_SLOT_BYTES,
    OWNER_WORDS,
    USAGE_CUT_BLOCKS,
    USAGE_FREE_BLOCKS,
    USAGE_FREE_SPANS,
    USAGE_LARGE_BLOCKS,
    USAGE_LONGEST_RUN,
    USAGE_OWNERS,
    USAGE_SLAB_FREE_BYTES,
)
from ..units import format_size
from .layout import Arena

WORLD = -1  # as an owner: all ranks together


@dataclass(frozen=True)
class Allocation:
    """One live allocation. `generation` counts those at its place; `references` the ranks that hold it."""

    address: int
    num_bytes: int  # as asked for
    owner: int  # rank, or WORLD
    generation: int
    references: int

    @staticmethod
    def of_row(row: Any) -> Allocation:
        """From a row of kernels.heap_usage.heap_list."""
        owner = WORLD if row[LIST_OWNER] == WORLD_RANK else row[LIST_OWNER]
        values = (row[LIST_ADDRESS], row[LIST_BYTES], owner, row[LIST_GENERATION], row[LIST_REFERENCES])
        return Allocation(*map(int, values))


@dataclass(frozen=True)
class OwnerUsage:
    """Allocations of one rank in an arena: the bytes of slots that they occupy, and the bytes that were asked for."""

    num_allocations: int
    slot_bytes: int
    asked_bytes: int
    cached_bytes: int  # free slots in its magazines: only it can use them at once


@dataclass(frozen=True)
class ArenaUsage:
    """The contents of one arena, by owner (a rank, or WORLD); no snapshot of one moment while other ranks allocate."""

    arena: Arena
    free_bytes: int  # in whole blocks
    longest_free_bytes: int  # in a row: the largest allocation that would succeed
    slab_free_bytes: int  # free slots of slabs, each for requests of its own size class
    cut_bytes: int  # in blocks that are cut for small allocations
    cut_free_bytes: int  # of them, not yet given to slabs
    large_bytes: int  # in blocks of large allocations
    owners: dict[int, OwnerUsage]

    @staticmethod
    def of_words(arena: Arena, words: Sequence[int], num_ranks: int) -> ArenaUsage:
        """From the words of kernels.heap_usage.heap_usage."""
        owners = {}
        for index in range(num_ranks + 1):
            row = USAGE_OWNERS + index * OWNER_WORDS
            fields = (OWNER_COUNT, OWNER_SLOT_BYTES, OWNER_ASKED_BYTES, OWNER_CACHED_BYTES)
            one = OwnerUsage(*(int(words[row + field]) for field in fields))
            if one != OwnerUsage(0, 0, 0, 0):
                owners[index if index < num_ranks else WORLD] = one
        return ArenaUsage(
            arena,
            int(words[USAGE_FREE_BLOCKS]) * BLOCK_BYTES,
            int(words[USAGE_LONGEST_RUN]) * BLOCK_BYTES,
            int(words[USAGE_SLAB_FREE_BYTES]),
            int(words[USAGE_CUT_BLOCKS]) * BLOCK_BYTES,
            int(words[USAGE_FREE_SPANS]) * SPAN_BYTES,
            int(words[USAGE_LARGE_BLOCKS]) * BLOCK_BYTES,
            owners,
        )

    @property
    def asked_bytes(self) -> int:
        """Bytes that all owners asked for and have not freed."""
        return sum(one.asked_bytes for one in self.owners.values())

    @property
    def num_allocations(self) -> int:
        """Live allocations of all owners."""
        return sum(one.num_allocations for one in self.owners.values())

    def describe(self) -> str:
        """A line of text: the free memory, and the ranks that have the rest."""
        held = ", ".join(
            f"{'all ranks' if owner == WORLD else f'rank {owner}'} {format_size(one.slot_bytes)}"
            for owner, one in self.owners.items()
            if one.num_allocations
        )
        partly = self.cut_free_bytes + self.slab_free_bytes
        cached = sum(one.cached_bytes for one in self.owners.values())
        return (
            f"{self.arena.name}: {format_size(self.free_bytes)} free, longest piece"
            f" {format_size(self.longest_free_bytes)}, {format_size(partly)} in partly used"
            f" blocks, {format_size(cached)} in magazines; held by {held or 'nobody'}"
        )


def out_of_memory_text(num_bytes: int, wanted: Arena, usages: Iterable[ArenaUsage]) -> str:
    """The text of OutOfMemory: the failed allocation, the free memory of each home, and the way out."""
    lines = [f"{wanted.name} has no room for {format_size(num_bytes)} in one piece"]
    roomy = []
    for usage in usages:
        lines.append(usage.describe())
        if usage.longest_free_bytes >= num_bytes and usage.arena != wanted:
            roomy.append(usage.arena.name)
    way_out = f"use home= where there is room ({', '.join(roomy)})" if roomy else "free something"
    return "\n  ".join(lines) + f"\n{way_out}, or start with larger segments (--segment)"
