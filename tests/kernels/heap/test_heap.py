"""What one rank's heap promises: sizes, alignment, errors, room that comes back, references."""

from __future__ import annotations

import random

import pytest

from tests.kernels.heap.heap_memory import BASE, HeapMemory, words_at
from umem.kernels import status
from umem.kernels.heap import classes, entries
from umem.kernels.heap.layout import (
    ARENA_LOCK,
    BLOCK_BYTES,
    GRANULE_BYTES,
    MAGAZINE_NUM_REFILLS,
    MAGAZINE_ROWS,
    MAGAZINE_THREAD,
    MAX_SLOT_BYTES,
    NUM_CLASSES,
    SPAN_BYTES,
    SPANS_PER_BLOCK,
)
from umem.kernels.heap.record import WORLD_RANK
from umem.kernels.heap.usage import (
    OWNER_ASKED_BYTES,
    OWNER_CACHED_BYTES,
    OWNER_COUNT,
    OWNER_SLOT_BYTES,
    USAGE_FREE_BLOCKS,
    USAGE_FREE_SPANS,
    USAGE_LONGEST_RUN,
    USAGE_SLAB_FREE_BYTES,
)
from umem.kernels.page.control import CONTROL_STOP

GRANULES = [classes.class_granules(size_class) for size_class in range(NUM_CLASSES)]


def slots_per_block(num_bytes: int) -> int:
    """How many allocations of this size a block holds; 1 for whole blocks."""
    if num_bytes > MAX_SLOT_BYTES:
        return 1
    size_class = classes.class_of(num_bytes)
    slabs = SPANS_PER_BLOCK >> classes.class_order(size_class)
    return slabs * classes.class_slots(size_class)


@pytest.fixture
def memory() -> HeapMemory:
    return HeapMemory(num_blocks=16)


def test_class_of_is_the_smallest_class_that_holds_the_size():
    assert sorted(set(GRANULES)) == GRANULES and GRANULES[-1] * GRANULE_BYTES == MAX_SLOT_BYTES
    for size_class, granules in enumerate(GRANULES):
        largest = granules * GRANULE_BYTES
        smallest = GRANULES[size_class - 1] * GRANULE_BYTES + 1 if size_class else 1
        assert classes.class_of(smallest) == classes.class_of(largest) == size_class
        assert (largest - smallest) / largest <= 0.2 or granules <= 4, "a request wastes at most a fifth"


def test_reciprocal_divides_every_granule_of_a_block_exactly():
    for size_class, granules in enumerate(GRANULES):
        factor = classes.reciprocal(size_class)
        for granule in range(BLOCK_BYTES // GRANULE_BYTES):
            product = granule * factor
            assert product >> classes.RECIPROCAL_BITS == granule // granules
            assert (product & classes.REMAINDER_MASK < factor) == (granule % granules == 0)


def test_slabs_waste_little_at_their_end_and_hold_several_slots():
    for size_class, granules in enumerate(GRANULES):
        num_slots = classes.class_slots(size_class)
        slab_bytes = SPAN_BYTES << classes.class_order(size_class)
        assert num_slots == slab_bytes // (granules * GRANULE_BYTES)
        assert num_slots >= 2 and num_slots <= 1024
        tail = slab_bytes - num_slots * granules * GRANULE_BYTES
        assert tail / slab_bytes <= 0.25


def test_one_allocation_of_every_class_fits_into_a_small_segment(memory):
    taken = [memory.alloc(0, granules * GRANULE_BYTES) for granules in GRANULES]
    assert min(taken) > 0


def test_every_alignment_up_to_a_block(memory):
    for align_log2 in range(22):
        for num_bytes in (1, 65, 5000, BLOCK_BYTES + 1):
            address = memory.alloc(0, num_bytes, 1 << align_log2)
            assert address % max(1 << align_log2, GRANULE_BYTES) == 0
            assert memory.free(0, address) == status.OK
    memory.check()


@pytest.mark.parametrize(
    ("num_bytes", "align"), [(-1, 64), (64, 0), (64, 2 * BLOCK_BYTES), (64, 192), (64, -64)]
)
def test_a_request_that_cannot_be_met_is_refused(memory, num_bytes, align):
    assert memory.alloc(0, num_bytes, align) == status.BAD_REQUEST


def test_zero_bytes_get_an_address_of_their_own(memory):
    assert memory.alloc(0, 0) != memory.alloc(0, 0)


def test_wrong_addresses_are_told_apart_and_change_nothing(memory):
    small, large = memory.alloc(0, 200), memory.alloc(0, 3 * BLOCK_BYTES)
    before = memory.live()
    assert memory.free(0, small + 64) == status.INTERIOR
    assert memory.free(0, small + 1) == status.INTERIOR
    assert memory.free(0, large + BLOCK_BYTES) == status.INTERIOR
    assert memory.free(0, large + 64) == status.INTERIOR
    assert memory.free(0, BASE - 64) == status.OUT_OF_RANGE
    assert memory.free(0, BASE + memory.num_bytes) == status.OUT_OF_RANGE
    assert memory.free(0, large - BLOCK_BYTES) == status.NOT_ALLOCATED
    never_used = small + 256 * 500  # a slot of the same slab
    assert memory.free(0, never_used) == status.NOT_ALLOCATED
    assert memory.live() == before


@pytest.mark.parametrize("num_bytes", [64, 100_000, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("second", [0, 1])
def test_a_double_free_is_refused_to_every_rank(memory, num_bytes, second):
    keep, address = memory.alloc(0, num_bytes), memory.alloc(0, num_bytes)
    assert memory.free(0, address) == status.OK
    assert memory.free(second, address) == status.DOUBLE_FREE
    assert [row.address for row in memory.live()] == [keep]
    memory.check()


def test_a_slot_that_was_freed_by_another_rank_is_not_given_out_twice(memory):
    for _ in range(500):
        address = memory.alloc(0, 64)
        assert memory.free(1, address) == status.OK
        assert memory.free(0, address) == status.DOUBLE_FREE
    stocks = memory.stock(0) + memory.stock(1)
    assert len(stocks) == len(set(stocks))
    memory.check()


def test_find_tells_the_start_from_any_address_inside(memory):
    rng = random.Random(5)
    for num_bytes in (1, 320, 5000, 700_000, BLOCK_BYTES, 5 * BLOCK_BYTES):
        address = memory.alloc(2, num_bytes)
        for _ in range(20):
            row = memory.find(address + rng.randrange(num_bytes))
            assert (row.address, row.num_bytes, row.owner) == (address, num_bytes, 2)


def test_memory_that_is_full_says_so_and_recovers(memory):
    for num_bytes in (64, 5000, 300_000, BLOCK_BYTES, 5 * BLOCK_BYTES):
        taken = []
        while (address := memory.alloc(0, num_bytes)) > 0:
            taken.append(address)
        assert address == status.NO_MEMORY
        assert len(taken) == memory.num_blocks * slots_per_block(num_bytes) // max(
            num_bytes // BLOCK_BYTES, 1
        )
        for address in taken:
            assert memory.free(0, address) == status.OK
        assert memory.alloc(0, memory.num_bytes) == BASE, "all is one piece again"
        assert memory.free(0, BASE) == status.OK
        memory.check()


def test_what_one_rank_freed_is_room_for_another_after_a_flush(memory):
    taken = [memory.alloc(0, 64) for _ in range(1000)]
    for address in taken:
        memory.free(1, address)
    assert memory.stock(0) or memory.stock(1)
    assert memory.flush(0) == memory.flush(1) == status.OK
    assert memory.usage()[0][USAGE_FREE_BLOCKS] == memory.num_blocks
    assert memory.alloc(2, memory.num_bytes) == BASE


def cached_bytes(memory: HeapMemory, rank: int) -> int:
    return memory.usage()[1][rank][OWNER_CACHED_BYTES]


def num_refills(memory: HeapMemory) -> int:
    return int(words_at(memory.magazine(0), MAGAZINE_ROWS)[MAGAZINE_NUM_REFILLS])


def test_a_stock_is_bounded(memory):
    sizes = [num_bytes for num_bytes in (64, 1000, 30_000, 200_000) for _ in range(60)]
    for _ in range(10):  # rows grow where they run both full and empty
        for address in [memory.alloc(0, num_bytes) for num_bytes in sizes]:
            assert memory.free(0, address) == status.OK
    assert cached_bytes(memory, 0) <= memory.num_bytes // 20 + memory.num_bytes // 32
    memory.check()


@pytest.mark.parametrize("num_bytes", [32 << 10, 256 << 10, MAX_SLOT_BYTES])
def test_a_row_grows_until_a_step_that_repeats_needs_no_lock(memory, num_bytes):
    num_slots = memory.num_bytes // 32 // num_bytes
    for step in range(10):
        if step == 8:
            before = num_refills(memory)
        for address in [memory.alloc(0, num_bytes) for _ in range(num_slots)]:
            assert memory.free(0, address) == status.OK
    assert num_refills(memory) == before
    assert memory.flush(0) == status.OK and cached_bytes(memory, 0) == 0, "and gives all of it back"
    memory.check()


def test_who_only_frees_keeps_little(memory):
    for _ in range(4):
        for address in [memory.alloc(0, 30_000) for _ in range(60)]:
            assert memory.free(1, address) == status.OK
    assert cached_bytes(memory, 1) <= memory.num_bytes // 1024


def test_neighbouring_large_runs_become_one(memory):
    runs = [memory.alloc(0, 4 * BLOCK_BYTES) for _ in range(4)]
    assert memory.alloc(0, BLOCK_BYTES) == status.NO_MEMORY
    for address in (runs[1], runs[2]):
        memory.free(0, address)
    assert memory.usage()[0][USAGE_LONGEST_RUN] == 8
    assert memory.alloc(0, 8 * BLOCK_BYTES) == min(runs[1], runs[2])


def test_the_smallest_run_that_suffices_is_used(memory):
    runs = [memory.alloc(0, size * BLOCK_BYTES) for size in (3, 1, 2, 1, 4, 1, 4)]
    for index in (0, 2, 4):
        memory.free(0, runs[index])
    assert memory.alloc(0, 2 * BLOCK_BYTES) == runs[2]
    assert memory.alloc(0, 3 * BLOCK_BYTES) == runs[0]
    memory.check()


def test_usage_adds_up(memory):
    rng = random.Random(1)
    asked = [0, 0, 0]
    for _ in range(400):
        rank, num_bytes = rng.randrange(3), rng.choice([50, 3000, 70_000])
        assert memory.alloc(rank, num_bytes) > 0
        asked[rank] += num_bytes
    words, owners = memory.usage()
    assert [owner[OWNER_ASKED_BYTES] for owner in owners[:3]] == asked
    assert sum(owner[OWNER_COUNT] for owner in owners) == 400
    in_slots = sum(owner[OWNER_SLOT_BYTES] + owner[OWNER_CACHED_BYTES] for owner in owners)
    free = words[USAGE_FREE_BLOCKS] * BLOCK_BYTES + words[USAGE_FREE_SPANS] * SPAN_BYTES
    whole = free + words[USAGE_SLAB_FREE_BYTES] + in_slots
    assert 0.9 * memory.num_bytes <= whole <= memory.num_bytes, "but for the ends of slabs"


def test_another_thread_goes_through_the_core(memory):
    words_at(memory.magazine(1), 2)[MAGAZINE_THREAD] += 8  # as if another thread had opened it
    taken = [memory.alloc(1, num_bytes) for num_bytes in (64, 64, 5000, BLOCK_BYTES)]
    assert len(set(taken)) == 4 and min(taken) > 0
    assert memory.stock(1) == []
    assert {row.owner for row in memory.live()} == {1}
    for address in taken:
        assert memory.free(1, address) == status.OK
    assert memory.stock(1) == [] and memory.live() == []
    assert entries.flush(memory.control(1), memory.magazine(1)) == status.BUSY
    memory.check()


def test_references_of_other_ranks_keep_an_allocation(memory):
    for num_bytes in (100, 2 * BLOCK_BYTES):
        address = memory.alloc(0, num_bytes)
        generation = memory.find(address).generation
        for rank in (2, 1, 2):
            assert memory.retain(0, address, rank, generation) == status.OK
        assert memory.find(address).references == 3, "a rank that is given it twice holds it once"
        assert memory.retain(0, address, 1, generation + 1) == status.STALE
        assert memory.retain(0, address, 99) == status.BAD_REQUEST
        assert memory.free(3, address) == status.NOT_HELD
        assert memory.free(0, address) == status.OK
        assert memory.find(address).owner == 1, "the lowest holder inherits"
        assert memory.free(2, address) == status.OK
        assert memory.find(address).references == 1
        assert memory.free(1, address) == status.OK
        assert memory.free(1, address) in (status.DOUBLE_FREE, status.NOT_ALLOCATED)
        assert memory.retain(0, address, 1) in (status.DOUBLE_FREE, status.NOT_ALLOCATED)
        assert memory.live() == []
        memory.check()


def test_holders_and_deaths_of_ranks_beyond_a_word_of_bits():
    """Bits of ranks stand in words of 32: each rank is told from its namesake in another word."""
    holders = [0, 1, 31, 32, 33, 63, 64]
    memory = HeapMemory(num_blocks=1, num_ranks=65)
    shared = memory.alloc(0, 100)
    own = {rank: memory.alloc(rank, 100) for rank in holders}
    for rank in holders[1:]:
        assert memory.retain(0, shared, rank) == status.OK
    assert memory.retain(0, shared, 96) == status.BAD_REQUEST
    for rank in (2, 34, 62):
        assert memory.free(rank, shared) == status.NOT_HELD
    for rank in (0, 1, 31):
        assert memory.free(rank, shared) == status.OK
        holders.remove(rank)
        found = memory.find(shared)
        assert (found.owner, found.references) == (holders[0], len(holders)), "the lowest holder inherits"
    for rank in (64, 63, 1, 33, 32, 31, 0):  # 1 before its namesake 33, 64 before its namesake 0
        memory.announce_death(rank)
        assert memory.reclaim(2)[0] >= 1
        assert memory.find(own[rank]) == status.NOT_ALLOCATED
        if rank in holders:
            holders.remove(rank)
        if holders:
            assert memory.find(shared).references == len(holders)
        memory.check()
    assert memory.live() == []


def test_an_owner_gives_what_it_owns(memory):
    address = memory.alloc(0, 100)
    common = memory.control(0), memory.arena, memory.holder(0), address
    assert memory.retain(0, address, 1) == status.OK
    assert entries.give(*common, 0, 1) == status.OK
    assert (memory.find(address).owner, memory.find(address).references) == (1, 1)
    assert entries.give(*common, 0, 2) == status.NOT_HELD
    assert entries.give(*common, 1, WORLD_RANK) == status.OK
    for rank in (0, 1):
        memory.announce_death(rank)
    memory.reclaim(2)
    assert memory.find(address).owner == WORLD_RANK, "no death takes back what belongs to all"
    assert memory.free(2, address) == status.OK
    assert memory.live() == []
    memory.check()


def test_a_lock_that_a_living_rank_holds_ends_the_slice(memory):
    words_at(memory.arena, 32)[ARENA_LOCK] = memory.holder(1)
    assert memory.alloc(0, BLOCK_BYTES) == status.AGAIN
    assert memory.alloc(0, 64) == status.AGAIN
    memory.control_words(0)[CONTROL_STOP] = 1
    assert memory.alloc(0, 64) == status.INTERRUPTED
    memory.control_words(0)[CONTROL_STOP] = 0
    words_at(memory.arena, 32)[ARENA_LOCK] = 0
    assert memory.alloc(0, 64) > 0


def test_batches_go_on_where_they_stopped(memory):
    sizes = words_at(memory.control(3) + 4096, 10)  # unused part of a control page
    addresses = words_at(memory.control(3) + 8192, 10)
    sizes[:] = [64, 5000, 64, memory.num_bytes, 64, 100, 64, 64, 64, 64]
    common = memory.control(0), memory.arena, memory.magazine(0)
    assert entries.alloc_batch(*common, sizes.ctypes.data, 64, addresses.ctypes.data, 0, 10) == 3
    assert addresses[3] == status.NO_MEMORY
    assert entries.alloc_batch(*common, sizes.ctypes.data, 64, addresses.ctypes.data, 4, 10) == 10
    assert len(memory.live()) == 9
    assert entries.free_batch(*common, addresses.ctypes.data, 0, 10) == 3
    assert entries.free_batch(*common, addresses.ctypes.data, 4, 10) == 10
    assert memory.live() == []


def test_a_long_random_run_stays_compact():
    """Fragmentation is bounded: what a run of changing sizes leaves is reused, not spread."""
    memory = HeapMemory(num_blocks=64)
    rng = random.Random(11)
    live: list[tuple[int, int]] = []
    asked = 0
    for step in range(60_000):
        sizes = (64, 8192) if (step // 10_000) % 2 else (8192, 262_144)  # the mix changes for good
        if asked > memory.num_bytes // 2 or (live and rng.random() < 0.45):
            index = rng.randrange(len(live))
            live[index], live[-1] = live[-1], live[index]
            address, num_bytes = live.pop()
            assert memory.free(0, address) == status.OK
            asked -= num_bytes
        else:
            num_bytes = rng.randint(*sizes)
            address = memory.alloc(0, num_bytes)
            assert address > 0, f"no room for {num_bytes} with {asked / memory.num_bytes:.0%} asked for"
            live.append((address, num_bytes))
            asked += num_bytes
    memory.check()
    for address, _ in live:
        memory.free(0, address)
    memory.flush(0)
    assert memory.usage()[0][USAGE_LONGEST_RUN] == memory.num_blocks
