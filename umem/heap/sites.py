"""The arenas of a world as one rank sees them, and its threads' magazines on those that it maps."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Collection
from functools import partial

from ..arguments import home_of
from ..errors import AddressError, Interrupted, OutOfMemory, RankLost, UmemError, UnknownName, WaitTimeout
from ..kernels import status
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import ARENA_LOCK, MAGAZINE_BYTES, MAGAZINE_ROWS
from ..kernels.heap.lock import HOLDER_RANK_MASK
from ..memory.waiting import unless_again
from ..world.waiting import Deadline, until
from .layout import NUM_MAGAZINES, Arena, ArenaKind, HeapLayout

NO_ATTRIBUTE = 0  # magazines draw from blocks that no cache protocol has


class Site:
    """One arena, reached directly (`is_mapped`) or through its home's agent."""

    def __init__(self, arena: Arena, is_mapped: bool):
        self.arena, self.is_mapped = arena, is_mapped
        self.metadata, self.kind = arena.metadata, int(arena.kind)
        self.magazines: dict[int, int] = {}  # by thread; empty where the arena is not mapped
        self.guest: ctypes.Array[ctypes.c_int64] | None = None  # for those who have no magazine

    def check(self, code: int) -> None:
        """Raise for a status that has nothing to do with an address."""
        if code == status.OK:
            return
        if code == status.INTERRUPTED:
            raise Interrupted(f"{self.arena.name}: the space is closing")
        if code == status.RANK_LOST:
            raise RankLost(self.arena.home, f"{self.arena.name}: its agent takes this rank for dead")
        raise UmemError(f"{self.arena.name}: {status.name(code)}")

    def finish(self, step: Callable[[], int], timeout_s: float) -> int:
        """Repeat `step` while it says AGAIN, because the lock was held for a slice; returns its last status."""
        code = until(lambda: unless_again(step()), Deadline(timeout_s))
        if code is None:
            holder = ctypes.c_int64.from_address(self.metadata + 8 * ARENA_LOCK).value
            rank = (holder & HOLDER_RANK_MASK) - 1
            raise WaitTimeout(f"{self.arena.name}: rank {rank} held the lock for {timeout_s:g} s")
        return code


class Sites:
    """Which arena an address or a home means. `home` words: a rank, "local", "host", "striped"."""

    def __init__(self, layout: HeapLayout, rank: int, mapped_ranks: Collection[int]):
        self.layout, self.map, self.rank = layout, layout.map, rank
        self.all = tuple(Site(arena, arena.home in mapped_ranks) for arena in layout.arenas)
        self.by_home: dict[int | str, Site] = {}  # of the living
        self.dead: frozenset[int] = frozenset()
        self._by_slot: dict[int, Site] = {}
        self._striped: Site | None = None
        self._stride_log2 = self.map.stride.bit_length() - 1
        for site in self.all:
            arena = site.arena
            if arena.kind is ArenaKind.STRIPED:
                self._striped = site
            else:
                self._by_slot[2 * arena.home + arena.kind] = site
            self.by_home.update((home, site) for home in self._names(site))

    def reachable(self) -> list[Site]:
        """All but those of dead homes that are not mapped."""
        return [site for site in self.all if site.is_mapped or site.arena.home not in self.dead]

    def of_address(self, address: int) -> Site:
        """The arena that manages `address`. Raises AddressError outside all segments."""
        linear, striped = self.map.linear_base, self.map.striped_base
        if linear <= address < striped:
            site = self._by_slot.get((address - linear) >> self._stride_log2)
        else:
            site = self._striped if striped <= address < self.map.striped_end else None
        if site is None:
            raise AddressError(f"address {address:#x} lies in no segment of this world")
        return site

    def at_home(self, home: int | str) -> Site:
        """The arena to allocate from. Raises RankLost, UnknownName, OutOfMemory where there is none."""
        home = home_of(home)
        if home in self.by_home:
            return self.by_home[home]
        for site in self.all:
            lost = self._lost(site)
            if lost is not None and home in self._names(site):
                raise RankLost(lost, f"allocation at home {home}")
        is_rank = isinstance(home, int) and 0 <= home < self.map.num_ranks
        if is_rank or home in ("local", "host", "striped"):
            raise OutOfMemory(f"home={home!r} has no memory in this world: not one block of 2M")
        known = (f"a rank from 0 to {self.map.num_ranks - 1}", "local", "host", "striped")
        raise UnknownName("home", home, known)

    def bury(self, dead: frozenset[int]) -> None:
        """Allocate no more at the homes of these ranks, nor over them."""
        self.dead = dead
        for home in [home for home, site in self.by_home.items() if self._lost(site) is not None]:
            del self.by_home[home]

    def _names(self, site: Site) -> tuple[int | str, ...]:
        """What users call an arena as a home."""
        arena = site.arena
        if arena.kind is ArenaKind.STRIPED:
            return ("striped",)
        if arena.kind is ArenaKind.HOST:
            return ("host",) if arena.home == self.rank else ()
        return (arena.home, "local") if arena.home == self.rank else (arena.home,)

    def _lost(self, site: Site) -> int | None:
        """The dead rank without which an arena cannot be allocated from, if there is one."""
        homes = self.map.members if site is self._striped else (site.arena.home,)
        return next((home for home in homes if home in self.dead), None)


class Magazines:
    """The magazines of a rank's threads, in its metadata segment.

    A thread gets one for each arena that it uses. When a thread has ended, the next one that needs a
    magazine empties its. Where all are taken, a thread gives up one of its own, or goes through the core.
    """

    def __init__(self, layout: HeapLayout, sites: Sites, control: int, holder: int, timeout_s: float):
        self.sites, self.control, self.holder, self.timeout_s = sites, control, holder, timeout_s
        self._first = layout.magazine(sites.rank, 0)
        self._free = [self._first + index * MAGAZINE_BYTES for index in reversed(range(NUM_MAGAZINES))]
        self._lock = threading.RLock()  # a finalizer may free in the middle of it

    def open(self, site: Site) -> int:
        """A magazine of the calling thread on a mapped arena, or the arena's guest."""
        thread = threading.get_ident()
        with self._lock:
            self._retire_threads()
            if not self._free:
                self._give_up_one(thread)
            if not self._free:
                return self.guest(site)
            magazine = self._free.pop()
            kernel.open_for_thread(magazine, site.metadata, self.holder, self.sites.rank, NO_ATTRIBUTE)
            site.magazines[thread] = magazine
            return magazine

    def guest(self, site: Site) -> int:
        """A magazine that is no thread's, so that all work with it goes through the core."""
        if site.guest is None:
            guest = (ctypes.c_int64 * MAGAZINE_ROWS)()  # it has no rows
            address = ctypes.addressof(guest)
            kernel.open_for_nobody(address, site.metadata, self.holder, self.sites.rank, NO_ATTRIBUTE)
            site.guest = guest
        return ctypes.addressof(site.guest)

    def flush(self, site: Site, magazine: int) -> None:
        """Return the stock of the calling thread's magazine to the core."""
        site.check(site.finish(partial(kernel.flush, self.control, magazine), self.timeout_s))

    def _give_up_one(self, thread: int) -> None:
        for site in self.sites.all:
            if thread in site.magazines:
                self.flush(site, site.magazines[thread])
                self._free.append(site.magazines.pop(thread))
                return

    def _retire_threads(self) -> None:
        alive = {thread.ident for thread in threading.enumerate()} | {threading.get_ident()}
        for site in self.sites.all:
            for thread in [thread for thread in site.magazines if thread not in alive]:
                magazine = site.magazines.pop(thread)
                kernel.adopt(magazine)
                self.flush(site, magazine)
                self._free.append(magazine)
