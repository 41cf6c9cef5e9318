"""An arena over addresses that nothing backs, and ranks that allocate from it, for the tests of the heap."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass

import numpy as np

from umem.kernels import status
from umem.kernels.heap import entries
from umem.kernels.heap.layout import (
    BLOCK_BYTES,
    ENTRY_NUMBER_SHIFT,
    MAGAZINE_BYTES,
    MAGAZINE_COUNTS,
    MAGAZINE_ROW_LOG2,
    MAGAZINE_ROWS,
    NUM_CLASSES,
)
from umem.kernels.heap.setup import arena_bytes
from umem.kernels.heap.usage import END_OF_SLOTS, LIST_WORDS, OWNER_WORDS, USAGE_OWNERS
from umem.kernels.page import control

BASE = 1 << 45  # mapped in no process: a heap that touched its memory would crash


@dataclass(frozen=True)
class Row:
    """One live allocation as the heap lists it."""

    address: int
    num_bytes: int
    owner: int
    generation: int
    references: int


class HeapMemory:
    """One arena of `num_blocks` blocks, and a control page and a magazine for each rank.

    All of it is shared memory: forked children are ranks of their own, with their own magazine. In this
    process one thread plays all ranks.
    """

    def __init__(self, num_blocks: int, num_ranks: int = 4):
        self.num_blocks, self.num_ranks, self.num_bytes = num_blocks, num_ranks, num_blocks * BLOCK_BYTES
        sizes = (
            num_ranks * control.CONTROL_BYTES,
            num_ranks * MAGAZINE_BYTES,
            arena_bytes(self.num_bytes, num_ranks),
        )
        self._map = mmap.mmap(-1, sum(sizes))
        self._view = (ctypes.c_char * len(self._map)).from_buffer(self._map)
        self.first = ctypes.addressof(self._view)
        self.size = len(self._map)
        self._magazines = self.first + sizes[0]
        self.arena = self._magazines + sizes[1]
        entries.init(self.arena, BASE, self.num_bytes, num_ranks)
        for rank in range(num_ranks):
            words = self.control_words(rank)
            words[control.CONTROL_RANK], words[control.CONTROL_NUM_RANKS] = rank, num_ranks
            words[control.CONTROL_SPIN_ROUNDS] = 20
            words[control.CONTROL_PEER_STATE : control.CONTROL_PEER_STATE + num_ranks] = control.ALIVE
            self.open(rank)

    def control(self, rank: int) -> int:
        """Address of the control page of `rank`."""
        return self.first + rank * control.CONTROL_BYTES

    def control_words(self, rank: int) -> np.ndarray:
        return words_at(self.control(rank), control.CONTROL_BYTES // 8)

    def magazine(self, rank: int) -> int:
        return self._magazines + rank * MAGAZINE_BYTES

    def holder(self, rank: int) -> int:
        """What `rank` writes into locks."""
        return rank + 1 | 77 << 16

    def open(self, rank: int) -> None:
        """Give `rank` an empty magazine, which belongs to the calling thread."""
        entries.open_for_thread(self.magazine(rank), self.arena, self.holder(rank), rank, 0)

    def announce_death(self, rank: int) -> None:
        """Let every rank see that `rank` is dead."""
        for peer in range(self.num_ranks):
            words = self.control_words(peer)
            words[control.CONTROL_PEER_STATE + rank] = control.DEAD
            words[control.CONTROL_EPOCH] += 1

    # --- operations of a rank

    def alloc(self, rank: int, num_bytes: int, align: int = 64) -> int:
        return entries.alloc(self.control(rank), self.arena, self.magazine(rank), num_bytes, align)

    def free(self, rank: int, address: int) -> int:
        return entries.free(self.control(rank), self.arena, self.magazine(rank), address)

    def retain(self, rank: int, address: int, holder: int, generation: int = -1) -> int:
        return entries.retain(self.control(rank), self.arena, self.holder(rank), address, holder, generation)

    def flush(self, rank: int) -> int:
        return entries.flush(self.control(rank), self.magazine(rank))

    def reclaim(self, rank: int) -> list[int]:
        """`rank` takes back what the dead had: allocations, bytes, slots of magazines."""
        freed = (ctypes.c_int64 * 3)()
        code = entries.reclaim_dead(
            self.control(rank), self.arena, self.holder(rank), ctypes.addressof(freed)
        )
        assert code == status.OK, code
        return list(freed)

    # --- what the heap says

    def live(self) -> list[Row]:
        """Every live allocation, in order of address."""
        rows, number = [], 0
        while number != END_OF_SLOTS:
            words = (ctypes.c_int64 * (256 * LIST_WORDS))()
            number = entries.list_live(self.arena, number, ctypes.addressof(words), 256)
            table = np.frombuffer(words, np.int64).reshape(256, LIST_WORDS)
            rows += [Row(*map(int, row)) for row in table if row[0]]
        return rows

    def find(self, address: int) -> Row | int:
        """The allocation that covers `address`, or a status."""
        row = (ctypes.c_int64 * LIST_WORDS)()
        code = entries.find(self.arena, address, ctypes.addressof(row))
        return Row(*row) if code == status.OK else code

    def usage(self) -> tuple[list[int], list[list[int]]]:
        """Words of the arena, and a row of words an owner; the last is the world's."""
        words = (ctypes.c_int64 * (USAGE_OWNERS + (self.num_ranks + 1) * OWNER_WORDS))()
        entries.usage(self.arena, self.num_ranks, ctypes.addressof(words))
        owners = [
            list(words[start : start + OWNER_WORDS]) for start in range(USAGE_OWNERS, len(words), OWNER_WORDS)
        ]
        return list(words[:USAGE_OWNERS]), owners

    def stock(self, rank: int) -> list[int]:
        """Slot numbers in the magazine of `rank`."""
        words = words_at(self.magazine(rank), MAGAZINE_BYTES // 8)
        numbers = []
        for size_class in range(NUM_CLASSES):
            row = MAGAZINE_ROWS + (size_class << MAGAZINE_ROW_LOG2)
            count = int(words[MAGAZINE_COUNTS + size_class])
            numbers += [int(entry) >> ENTRY_NUMBER_SHIFT for entry in words[row : row + count]]
        return numbers

    def check(self) -> None:
        """Every invariant of the arena holds."""
        found = entries.audit(self.arena)
        assert found == 0, f"problem {found >> 32} at block {found & 0xFFFF_FFFF}"

    # --- the same moment again

    def save(self) -> bytes:
        """All of the shared memory, for `restore`."""
        return ctypes.string_at(self.first, self.size)

    def restore(self, saved: bytes) -> None:
        ctypes.memmove(self.first, saved, self.size)


def words_at(address: int, count: int) -> np.ndarray:
    """int64 words as an array that writes through."""
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))
