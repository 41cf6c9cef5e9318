"""A rank that dies at any store of any operation leaves a heap that the others go on using, whole.

The kernels run as plain Python on a machine that stops before the n-th write, for every n: what another
rank finds then is what a killed process would have left. The same on machine code: test_heap_kills.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kernels.heap.heap_memory import BASE, HeapMemory, words_at
from umem.kernels import status
from umem.kernels.build.direct_memory import DirectMemory
from umem.kernels.heap.alloc import heap_alloc, heap_free, heap_give, heap_retain
from umem.kernels.heap.layout import ARENA_LOCK, BLOCK_BYTES, MAGAZINE_THREAD
from umem.kernels.heap.lock import heap_reclaim_dead
from umem.kernels.heap.magazine import flush_all
from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.elements import Element, Number

NUM_BLOCKS = 4
VICTIM, SURVIVOR, BYSTANDER, DEAD_BEFORE = 0, 1, 2, 3


class Killed(BaseException):
    """The machine has stopped."""


class MortalMemory(DirectMemory):
    """Real memory whose kernel dies instead of making its n-th write; single-threaded."""

    def __init__(self, writes_left: int):
        self.writes_left = writes_left

    def load(self, address: int, element: Element, ordering: Any) -> Number:
        return super().load(address, element, "plain")

    def store(self, address: int, element: Element, value: Number, ordering: Any) -> None:
        self._count()
        super().store(address, element, value, "plain")

    def rmw(
        self, operation: str, address: int, element: Element, operands: tuple[Number, ...], ordering: Any
    ) -> Number:
        self._count()
        old = super().load(address, element, "plain")
        super().store(address, element, machine.new_value(operation, element, old, operands), "plain")
        return old

    def _count(self) -> None:
        self.writes_left -= 1
        if self.writes_left == 0:
            raise Killed


class Rank:
    """The kernels as plain Python, called as one rank."""

    def __init__(self, memory: HeapMemory, rank: int):
        self.memory, self.rank = memory, rank
        self.common = memory.control(rank), memory.arena, memory.magazine(rank)

    def alloc(self, num_bytes: int) -> int:
        address = heap_alloc(*self.common, num_bytes, 64)
        assert address > 0
        return address

    def free(self, address: int) -> None:
        assert heap_free(*self.common, address) == status.OK

    def retain(self, address: int, rank: int) -> None:
        control, arena, _ = self.common
        assert heap_retain(control, arena, self.memory.holder(self.rank), address, rank, -1) == status.OK

    def give(self, address: int, heir: int) -> None:
        control, arena, _ = self.common
        assert heap_give(control, arena, self.memory.holder(self.rank), address, self.rank, heir) == status.OK

    def flush(self) -> None:
        assert flush_all(self.common[0], self.common[2]) == status.OK

    def reclaim(self) -> None:
        control, arena, _ = self.common
        freed = self.memory.control(3) + 8192  # unused part of a control page
        assert heap_reclaim_dead(control, arena, self.memory.holder(self.rank), freed) == status.OK


Operation = Callable[[], object]
Scene = tuple[Operation, list[int]]  # what the victim does, and what must live on whenever it dies


def first_alloc(memory: HeapMemory, rank: Rank) -> Scene:
    return lambda: rank.alloc(100), []


def alloc_from_a_partial_slab(memory: HeapMemory, rank: Rank) -> Scene:
    return lambda: rank.alloc(3000), [memory.alloc(SURVIVOR, 3000)]


def alloc_from_the_magazine(memory: HeapMemory, rank: Rank) -> Scene:
    memory.alloc(VICTIM, 100)
    return lambda: rank.alloc(100), []


def alloc_above_the_magazine(memory: HeapMemory, rank: Rank) -> Scene:
    return lambda: rank.alloc(500_000), []


def alloc_blocks(memory: HeapMemory, rank: Rank) -> Scene:
    return lambda: rank.alloc(2 * BLOCK_BYTES), []


def alloc_after_flushing_everything(memory: HeapMemory, rank: Rank) -> Scene:
    memory.alloc(SURVIVOR, 2 * BLOCK_BYTES)
    for num_bytes in (100, 5000):
        memory.free(VICTIM, memory.alloc(VICTIM, num_bytes))
    filling = []
    while (address := memory.alloc(VICTIM, 1 << 20)) > 0:
        filling.append(address)
    memory.free(VICTIM, memory.alloc(VICTIM, 100))
    memory.free(VICTIM, filling[0])
    return lambda: rank.alloc(1 << 20), []


def free_into_the_magazine(memory: HeapMemory, rank: Rank) -> Scene:
    address = memory.alloc(VICTIM, 100)
    return lambda: rank.free(address), []


def free_what_another_owns(memory: HeapMemory, rank: Rank) -> Scene:
    memory.free(VICTIM, memory.alloc(VICTIM, 100))
    address = memory.alloc(SURVIVOR, 100)
    return lambda: rank.free(address), []


def free_that_overflows_a_row(memory: HeapMemory, rank: Rank) -> Scene:
    taken = [memory.alloc(VICTIM, 1024) for _ in range(20)]
    for address in taken[:-2]:
        memory.free(VICTIM, address)
    return lambda: [rank.free(address) for address in taken[-2:]], []


def free_the_last_slot_of_a_block(memory: HeapMemory, rank: Rank) -> Scene:
    address = memory.alloc(VICTIM, 1 << 20)
    return lambda: rank.free(address), []


def free_blocks(memory: HeapMemory, rank: Rank) -> Scene:
    address = memory.alloc(VICTIM, 2 * BLOCK_BYTES)
    return lambda: rank.free(address), []


def flush_a_magazine(memory: HeapMemory, rank: Rank) -> Scene:
    for num_bytes in (64, 1000, 64, 5000):
        memory.free(VICTIM, memory.alloc(VICTIM, num_bytes))
    return rank.flush, []


def work_from_another_thread(memory: HeapMemory, rank: Rank) -> Scene:
    address = memory.alloc(VICTIM, 200)
    words_at(memory.magazine(VICTIM), 2)[MAGAZINE_THREAD] += 8
    return lambda: (rank.alloc(100), rank.free(address)), []


def give_a_reference(memory: HeapMemory, rank: Rank) -> Scene:
    address = memory.alloc(VICTIM, 200)
    return lambda: rank.retain(address, SURVIVOR), []


def give_an_allocation(memory: HeapMemory, rank: Rank) -> Scene:
    first, second = memory.alloc(VICTIM, 200), memory.alloc(VICTIM, 200)
    memory.retain(VICTIM, second, SURVIVOR)
    memory.retain(VICTIM, second, BYSTANDER)
    return lambda: (rank.give(first, BYSTANDER), rank.give(second, SURVIVOR)), [second]


def drop_references(memory: HeapMemory, rank: Rank) -> Scene:
    own, large = memory.alloc(VICTIM, 200), memory.alloc(VICTIM, BLOCK_BYTES)
    foreign = memory.alloc(SURVIVOR, 200)
    for address, holder in ((own, SURVIVOR), (own, BYSTANDER), (foreign, VICTIM), (large, BYSTANDER)):
        memory.retain(BYSTANDER, address, holder)
    shared = [own, foreign, large]
    return lambda: [rank.free(address) for address in shared], shared


def take_back_what_a_dead_rank_had(memory: HeapMemory, rank: Rank) -> Scene:
    shared = memory.alloc(DEAD_BEFORE, 200)
    memory.retain(DEAD_BEFORE, shared, SURVIVOR)
    for num_bytes in (64, 5000, BLOCK_BYTES):
        memory.alloc(DEAD_BEFORE, num_bytes)
    memory.free(DEAD_BEFORE, memory.alloc(DEAD_BEFORE, 64))
    memory.announce_death(DEAD_BEFORE)
    return rank.reclaim, [shared]


def take_the_lock_of_a_dead_rank(memory: HeapMemory, rank: Rank) -> Scene:
    """The victim dies in the work that another's death left."""
    memory.alloc(DEAD_BEFORE, 5000)
    keep = [memory.alloc(SURVIVOR, 64), memory.alloc(BYSTANDER, 2 * BLOCK_BYTES)]
    words_at(memory.arena, 32)[ARENA_LOCK] = memory.holder(DEAD_BEFORE)
    memory.announce_death(DEAD_BEFORE)
    return lambda: rank.alloc(700), keep


SCENES = [
    first_alloc,
    alloc_from_a_partial_slab,
    alloc_from_the_magazine,
    alloc_above_the_magazine,
    alloc_blocks,
    alloc_after_flushing_everything,
    free_into_the_magazine,
    free_what_another_owns,
    free_that_overflows_a_row,
    free_the_last_slot_of_a_block,
    free_blocks,
    flush_a_magazine,
    work_from_another_thread,
    give_a_reference,
    give_an_allocation,
    drop_references,
    take_back_what_a_dead_rank_had,
    take_the_lock_of_a_dead_rank,
]


def deaths(memory: HeapMemory, operate: Operation) -> Iterator[int]:
    """Let the victim die before its first write, its second, ...; yields after each, in memory made anew."""
    saved = memory.save()
    num_writes = 0
    while True:
        num_writes += 1
        memory.restore(saved)
        try:
            with machine.use(MortalMemory(num_writes)):
                operate()
        except Killed:
            yield num_writes
        else:
            return


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_others_live_on_whenever_a_rank_dies(scene):
    memory = HeapMemory(NUM_BLOCKS)
    keep = [memory.alloc(SURVIVOR, 64)]
    operate, more = scene(memory, Rank(memory, VICTIM))
    keep += more
    before = {row.address: row for row in memory.live()}
    num_deaths = 0
    for num_deaths in deaths(memory, operate):
        memory.announce_death(VICTIM)
        address = memory.alloc(SURVIVOR, 700)  # must not wait for the dead
        if address > 0:
            assert memory.free(SURVIVOR, address) == status.OK
        memory.check()
        memory.reclaim(SURVIVOR)
        memory.check()
        after = {row.address: row for row in memory.live()}
        assert set(keep) <= after.keys() <= before.keys()
        assert {row.owner for row in after.values()} <= {SURVIVOR, BYSTANDER}, "the dead own nothing"
        for row in after.values():
            assert (row.num_bytes, row.generation) == (
                before[row.address].num_bytes,
                before[row.address].generation,
            )
            while memory.find(row.address) != status.NOT_ALLOCATED:
                assert memory.free(memory.find(row.address).owner, row.address) == status.OK
        for rank in (SURVIVOR, BYSTANDER):
            assert memory.flush(rank) == status.OK
        assert memory.alloc(SURVIVOR, memory.num_bytes) == BASE, f"lost room at write {num_deaths}"
    assert num_deaths > 2, "the victim never died: the operation was not what is meant"


class MeetingMemory(MortalMemory):
    """Real memory that lets another rank act just before the n-th write, and then goes on."""

    def __init__(self, writes_left: int, act: Callable[[], object]):
        super().__init__(writes_left)
        self.act = act
        self.has_met = False

    def _count(self) -> None:
        try:
            super()._count()
        except Killed:
            self.has_met = True
            self.act()


@pytest.mark.parametrize("owner", [VICTIM, SURVIVOR])
def test_of_two_frees_that_meet_anywhere_one_wins(owner):
    memory = HeapMemory(NUM_BLOCKS)
    for rank in (VICTIM, SURVIVOR):
        memory.free(rank, memory.alloc(rank, 100))
    address = memory.alloc(owner, 100)
    saved = memory.save()
    for num_writes in range(1, 100):
        memory.restore(saved)
        codes: list[int] = []
        meeting = MeetingMemory(num_writes, lambda: codes.append(memory.free(SURVIVOR, address)))  # noqa: B023
        with machine.use(meeting):
            codes.append(heap_free(*Rank(memory, VICTIM).common, address))
        if not meeting.has_met:
            assert num_writes > 3
            return
        assert sorted(codes) == [status.DOUBLE_FREE, status.OK]
        stocks = memory.stock(VICTIM) + memory.stock(SURVIVOR)
        assert len(stocks) == len(set(stocks)), "no slot is in two magazines"
        memory.check()
