"""Ranks with caches, directories and homes over memory that forked children share, for the tests of coherence."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from umem.coherence.protocol import MSI, Protocol
from umem.kernels.coherent import layout as words
from umem.kernels.coherent.cache import line_of
from umem.kernels.coherent.directory import directory_word, line_state, owner_of
from umem.kernels.page import control
from umem.lines.cache import LineCache
from umem.lines.layout import CacheSize, LineLayout
from umem.memory.address import BASE, BLOCK_LOG2, AddressMap, Kind
from umem.memory.control_page import ControlPage
from umem.memory.device import HOST, host

BLOCK_BYTES = 1 << BLOCK_LOG2
SMALL = CacheSize(num_bytes=512, num_ways=2)  # eight lines of 64 bytes


@dataclass(frozen=True)
class Copy:
    """A slot of a rank's cache that is not INVALID."""

    rank: int
    line: int
    state: int
    data: bytes


class Blocks:
    """The heap's part for caches: each rank's segment is one block, given to whoever asks first."""

    def __init__(self, plan: AddressMap):
        self._plan = plan

    def alloc(self, num_bytes: int, home: int | str, align: int) -> int:
        """The block at `home`."""
        assert isinstance(home, int) and num_bytes <= BLOCK_BYTES and align <= BLOCK_BYTES
        return self._plan.slot_address(home, Kind.DEVICE)

    def give(self, address: int) -> None:
        """Blocks belong to nobody."""

    def free(self, address: int) -> None:
        """Blocks are always there."""


class CoherentMemory:
    """`num_ranks` ranks, the first `num_homes` of them with a segment of one block. Close it: it takes addresses.

    Forked children map the same memory, and open caches of the ranks that they play.
    """

    def __init__(
        self, num_ranks: int, num_homes: int = 1, protocol: Protocol = MSI, size: CacheSize = SMALL
    ) -> None:
        self.num_ranks, self.num_homes = num_ranks, num_homes
        self.lines = LineLayout(control.CONTROL_BYTES, BLOCK_BYTES, 0, size)
        self.plan = AddressMap.plan(num_ranks, BLOCK_BYTES, 0, self.lines.end, striped_fraction=0)
        HOST.reserve(BASE, self.plan.end - BASE)
        self._mapped: list[int] = []
        for rank in range(num_ranks):
            self._map(self.plan.meta_address(rank), self.plan.meta_bytes)
            page = ControlPage(self.control_words(rank))
            page.initialise(rank, self.plan, has_own_core=False)
            page.words[control.CONTROL_COHERENCE] = self.lines.start
            header = host.view(self.lines.header(self.plan, rank), words.CACHE_HEADER_BYTES).view(np.int64)
            self.lines.initialise(header, self.plan, rank, protocol.words())
            page.admit([7] * num_ranks)
        for rank in range(num_homes):
            self._map(self.plan.slot_address(rank, Kind.DEVICE), BLOCK_BYTES)

    def _map(self, address: int, num_bytes: int) -> None:
        fd = HOST.create(num_bytes, "umem-coherent")
        HOST.map(fd, address, num_bytes)
        os.close(fd)

    def close(self) -> None:
        """Give the addresses back."""
        HOST.release_range(BASE, self.plan.end - BASE)

    def control_words(self, rank: int) -> np.ndarray:
        """The control page of `rank`."""
        return host.view(self.plan.meta_address(rank), control.CONTROL_BYTES).view(np.int64)

    def open(self, rank: int, timeout_s: float = 30.0) -> LineCache:
        """The cache of `rank`, for the calling process."""
        page = ControlPage(self.control_words(rank))
        everyone = frozenset(range(self.num_ranks))
        return LineCache(
            self.lines, self.plan, page, rank, None, everyone, Blocks(self.plan), None, timeout_s
        )

    def announce_death(self, rank: int) -> None:
        """Let every rank see that `rank` is dead."""
        for peer in range(self.num_ranks):
            page = self.control_words(peer)
            page[control.CONTROL_PEER_STATE + rank] = control.DEAD
            page[control.CONTROL_EPOCH] += 1

    # --- what must hold while nobody is at work

    def directory(self, address: int, line_bytes: int) -> int:
        """The directory word of the line at `address`."""
        home = self.plan.home(address)
        at = directory_word(
            self.plan.meta_address(home),
            self.lines.header(self.plan, home),
            address,
            line_bytes.bit_length() - 1,
        )
        return ctypes.c_int64.from_address(at).value

    def at_home(self, address: int, num_bytes: int) -> bytes:
        """What the memory itself holds, whatever copies say."""
        return ctypes.string_at(address, num_bytes)

    def copies(self, line_bytes: int) -> Iterator[Copy]:
        """Every slot of every rank that holds a line of this size."""
        line_log2 = line_bytes.bit_length() - 1
        tags, copies = self.lines.geometries[line_log2]
        for rank in range(self.num_ranks):
            meta = self.plan.meta_address(rank)
            num_slots = self.lines.size.num_slots(line_log2)
            for slot, tag in enumerate(host.view(meta + tags, 8 * num_slots).view(np.int64).tolist()):
                state = tag & words.TAG_STATE_MASK
                if state != words.INVALID:
                    line = line_of(tag)
                    data = ctypes.string_at(meta + copies + slot * line_bytes, line_bytes)
                    yield Copy(rank, BASE + line * line_bytes, state, data)

    def check(self, line_bytes: int, ranks: set[int] | None = None) -> None:
        """One owner or many readers; every copy is what its home has, unless it is owned; no lock is left.

        Among `ranks`, the living, while nobody is at work. Raises AssertionError.
        """
        held: dict[int, list[Copy]] = {}
        for copy in self.copies(line_bytes):
            if ranks is None or copy.rank in ranks:
                held.setdefault(copy.line, []).append(copy)
        for address, copies in held.items():
            word = self.directory(address, line_bytes)
            text = f"line {address:#x}, directory {word:#x}, {[(c.rank, c.state) for c in copies]}"
            assert not word & words.DIRECTORY_LOCK, f"a lock is left: {text}"
            if line_state(word) == words.LINE_OWNED:
                assert [copy.rank for copy in copies] == [owner_of(word)], f"not one owner: {text}"
                assert copies[0].state in (words.EXCLUSIVE, words.MODIFIED), text
                is_clean = copies[0].state == words.EXCLUSIVE
            else:
                assert line_state(word) == words.LINE_SHARED, text
                assert all(copy.state == words.SHARED_COPY for copy in copies), f"not only readers: {text}"
                assert len({copy.rank for copy in copies}) == len(copies), f"two copies at one rank: {text}"
                is_clean = True
            if is_clean:
                at_home = self.at_home(address, line_bytes)
                assert all(copy.data == at_home for copy in copies), f"a stale copy: {text}"

    # --- the same moment again

    def save(self) -> list[tuple[int, bytes]]:
        """All of the memory, for `restore`."""
        parts = [(self.plan.meta_address(rank), self.plan.meta_bytes) for rank in range(self.num_ranks)]
        parts += [(self.plan.slot_address(rank, Kind.DEVICE), 4096) for rank in range(self.num_homes)]
        return [(address, ctypes.string_at(address, num_bytes)) for address, num_bytes in parts]

    def restore(self, saved: list[tuple[int, bytes]]) -> None:
        """Put back what `save` has found."""
        for address, data in saved:
            ctypes.memmove(address, data, len(data))
