"""What the heap promises in every world, as functions that every rank runs; see test_heap.py."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import pytest

import umem
from umem.errors import (
    AddressError,
    ConfigError,
    DoubleFree,
    NotAllocated,
    OutOfMemory,
    RankLost,
    UnknownName,
    WorldError,
)
from umem.heap import WORLD, ArenaKind
from umem.units import MIB

from .outcomes import run_checks

SIZES = (1, 64, 100, 5000, 70_000, MIB, 5 * MIB)


def homes(space: umem.Space) -> list:
    return [*range(space.num_ranks), "local", "host", "striped"]


def tell(space: umem.Space, key: str, numbers: list[int]) -> list[list[int]]:
    """What every rank says. Collective."""
    blobs = space.world.exchange(key, " ".join(map(str, numbers)).encode())
    return [[int(number) for number in blob.split()] for blob in blobs]


def own_bytes(space: umem.Space) -> int:
    """What this rank has asked for and not freed, anywhere."""
    owners = (usage.owners.get(space.rank) for usage in space.heap.usage())
    return sum(owner.asked_bytes for owner in owners if owner is not None)


def owned(space: umem.Space) -> set[int]:
    """Addresses of this rank's allocations, anywhere."""
    return {one.address for one in space.heap.snapshot() if one.owner == space.rank}


def every_home_serves_every_size(space):
    before = own_bytes(space)
    for home in homes(space):
        taken = [space.heap.alloc(num_bytes, home) for num_bytes in SIZES]
        for address, num_bytes in zip(taken, SIZES, strict=True):
            assert address % 64 == 0
            found = space.heap.find(address + num_bytes - 1)
            assert (found.address, found.num_bytes, found.owner) == (address, num_bytes, space.rank)
            if isinstance(home, int):
                assert space.segments.map.home(address) == home
        assert own_bytes(space) == before + sum(SIZES)
        for address in taken:
            space.heap.free(address)
    assert own_bytes(space) == before
    space.barrier()


def allocations_of_all_ranks_are_apart(space):
    taken = [space.heap.alloc(3000, home) for home in homes(space) for _ in range(5)]
    everyones = sorted(address for one in tell(space, "apart", taken) for address in one)
    assert all(low + 3000 <= high for low, high in itertools.pairwise(everyones))
    assert set(taken) <= owned(space)
    space.barrier()
    for address in taken:
        space.heap.free(address)
    space.barrier()


def alignment_is_kept(space):
    for home in homes(space):
        for align in (1, 256, 1 << 16, 2 * MIB):
            address = space.heap.alloc(100, home, align)
            assert address % align == 0
            space.heap.free(address)
    for align in (0, 3, -64, 4 * MIB):
        with pytest.raises(ConfigError, match="power of two"):
            space.heap.alloc(100, "local", align)


def any_rank_frees_what_it_is_told_of(space):
    taken = [space.heap.alloc(100, home) for home in homes(space)]
    others = tell(space, "told", taken)
    for address in others[(space.rank + 1) % space.num_ranks]:
        space.heap.free(address)
    space.barrier()
    for address in taken:
        with pytest.raises(NotAllocated):
            space.heap.find(address)
    space.barrier()


def references_of_other_ranks_keep_memory_alive(space):
    for home in homes(space):
        mine = space.heap.alloc(100, home)
        generation = space.heap.find(mine).generation
        space.heap.retain(mine, (space.rank + 1) % space.num_ranks, generation)
        with pytest.raises(NotAllocated, match="another allocation"):
            space.heap.retain(mine, space.rank, generation + 77)
        given = tell(space, "held", [mine])[(space.rank - 1) % space.num_ranks][0]
        space.heap.free(mine)
        space.barrier()
        if space.num_ranks > 1:
            found = space.heap.find(given)
            assert (found.owner, found.references) == (space.rank, 1), "the holder inherits"
            space.heap.free(given)
        space.barrier()


def what_all_own_is_freed_by_any_rank(space):
    for home in homes(space):
        mine = space.heap.alloc(100, home)
        space.heap.give(mine)
        assert space.heap.owner_of(mine) == WORLD
        given = tell(space, "given", [mine])[(space.rank - 1) % space.num_ranks][0]
        space.heap.free(given)
        space.barrier()
        with pytest.raises(NotAllocated):
            space.heap.free(mine)
        space.barrier()


def wrong_addresses_are_named(space):
    for home in homes(space):
        address = space.heap.alloc(1000, home)
        with pytest.raises(NotAllocated, match=rf"64 bytes into the allocation at {address:#x}"):
            space.heap.free(address + 64)
        space.heap.free(address)
        with pytest.raises(NotAllocated, match=f"{address:#x}"):
            space.heap.free(address)
        with pytest.raises(NotAllocated):
            space.heap.find(address)
        space.barrier()
    keep, address = space.heap.alloc(1000), space.heap.alloc(1000)
    space.heap.free(address)
    with pytest.raises(DoubleFree, match=f"{address:#x}"):
        space.heap.free(address)
    space.heap.free(keep)
    with pytest.raises(AddressError, match="no segment"):
        space.heap.free(12345)
    with pytest.raises(UnknownName, match="nowhere"):
        space.heap.alloc(64, "nowhere")
    with pytest.raises(UnknownName):
        space.heap.alloc(64, space.num_ranks)
    for num_bytes in (-1, 1.5, "64"):
        with pytest.raises(ConfigError):
            space.heap.alloc(num_bytes)
    space.barrier()


def out_of_memory_tells_what_is_free_where(space):
    for home in homes(space):
        with pytest.raises(OutOfMemory, match="free") as caught:
            space.heap.alloc(1 << 50, home)
        assert f"rank {space.rank} device" in str(caught.value)
    space.barrier()
    if space.rank == 0:
        taken = []
        with pytest.raises(OutOfMemory, match=r"held by rank 0 [\d.]+M"):
            while True:
                taken.append(space.heap.alloc(MIB, 0))
        for address in taken:
            space.heap.free(address)
        address = space.heap.alloc(len(taken) // 2 * MIB, 0)  # what was freed is one piece again
        space.heap.free(address)
    space.barrier()


def threads_allocate_at_the_same_time(space):
    """At homes that are mapped: only the main thread may ask an agent."""
    near = [site for site in space.heap.sites.all if site.is_mapped and site.arena.kind is ArenaKind.DEVICE]
    taken: list[int] = []

    def work() -> None:
        for _ in range(200):
            mine = [space.heap.alloc(100, site.arena.home) for site in near]
            taken.extend(mine[:1])
            for address in mine[1:]:
                space.heap.free(address)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(taken)) == 800
    for address in taken:
        space.heap.free(address)
    space.heap.trim()
    assert not set(taken) & owned(space)
    space.barrier()


def a_rank_without_free_magazines_allocates_all_the_same(space):
    heap = space.heap
    magazines = heap._magazines
    with magazines._lock:
        free, magazines._free = magazines._free, []
        opened = [dict(site.magazines) for site in heap.sites.all]
        for site in heap.sites.all:
            site.magazines.clear()
    address = heap.alloc(100)
    assert heap.find(address).owner == space.rank
    heap.free(address)
    assert not heap.sites.at_home("local").magazines, "it went through the core"
    magazines._free = free
    for site, before in zip(heap.sites.all, opened, strict=True):
        site.magazines.update(before)


def a_forked_process_must_not_change_the_heap(space):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            space.heap.alloc(64)
        except WorldError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    space.heap.free(space.heap.alloc(64))


CHECKS = {
    check.__name__: check
    for check in (
        every_home_serves_every_size,
        allocations_of_all_ranks_are_apart,
        alignment_is_kept,
        any_rank_frees_what_it_is_told_of,
        references_of_other_ranks_keep_memory_alive,
        what_all_own_is_freed_by_any_rank,
        wrong_addresses_are_named,
        out_of_memory_tells_what_is_free_where,
        threads_allocate_at_the_same_time,
        a_rank_without_free_magazines_allocates_all_the_same,
        a_forked_process_must_not_change_the_heap,
    )
}


def run_all(space: umem.Space) -> dict[str, str]:
    """Outcome of each check in this rank."""
    return run_checks(space, CHECKS)


def lose_a_rank(space: umem.Space, victim: int) -> list[str]:
    """The victim dies with memory at every home; arenas of rank 0 in which it still has something."""
    kept = space.heap.alloc(100, 0)
    passed_on = space.heap.alloc(5000, 0)
    space.heap.retain(passed_on, 0)
    told = tell(space, "passed on", [passed_on])
    if space.rank == victim:
        for home in homes(space):
            space.heap.alloc(70_000, home)
    space.barrier()
    if space.rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RankLost):
        space.barrier()
    for home in (victim, "striped"):
        with pytest.raises(RankLost):
            space.heap.alloc(64, home)
    space.heap.reclaim()
    assert space.heap.find(told[victim][0]).owner == 0, "what another rank holds goes on to it"
    space.heap.free(told[victim][0])
    space.heap.free(kept)
    sites = [site for site in space.heap.sites.all if site.arena.home == 0]
    usages = [space.heap.usage_of(site) for site in sites]
    return [usage.arena.name for usage in usages if victim in usage.owners]
