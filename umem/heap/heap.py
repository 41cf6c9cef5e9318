"""The heap of one rank: allocate at any home, free from anywhere, ask which ranks hold what.

Homes whose metadata this rank maps are used directly, by compiled code over a magazine of the calling
thread; for others the home's agent does the same in this rank's name.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NoReturn, Protocol

import numpy as np

from ..agent.asking.client import Reply
from ..arguments import home_of, whole
from ..errors import ConfigError, DoubleFree, NotAllocated, OutOfMemory, WorldError
from ..kernels import status
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import MAX_ALIGNMENT
from ..kernels.heap.lock import HOLDER_INCARNATION_SHIFT
from ..kernels.heap.record import ANY_GENERATION, WORLD_RANK
from ..kernels.heap.usage import END_OF_SLOTS, LIST_WORDS, OWNER_WORDS, USAGE_OWNERS
from ..kernels.page.control import CONTROL_EPOCH, CONTROL_NUM_RANKS, CONTROL_PEER_STATE, CONTROL_RANK, DEAD
from ..world.forks import MakeError, belongs_here, refuse
from .handlers import (
    CONTEXT_ARENAS,
    CONTEXT_CONTROL,
    CONTEXT_HOLDER,
    CONTEXT_MAGAZINES,
    CONTEXT_WORDS,
    HEAP_HANDLERS,
    HeapOperation,
)
from .layout import HeapLayout
from .report import WORLD, Allocation, ArenaUsage, out_of_memory_text
from .sites import Magazines, Site, Sites

ALLOC = int(HeapOperation.ALLOC)  # for a member of an enum Numba works out its type anew, which takes 100 us
DEFAULT_ALIGN = 64
ROWS_PER_CALL = 1024  # of a snapshot


class Agent(Protocol):
    """This rank's agent, as far as the heap needs one."""

    @property
    def client(self) -> Any:
        """Asks other agents: agent.Client."""
        ...

    def register(self, operation: int, handler: Any, context: int = 0) -> None:
        """Serve `operation` for other ranks."""
        ...


class Heap:
    """Allocates, frees and accounts for memory anywhere in the world.

    `control` is the address of this rank's control page, `mapped_ranks` are those whose metadata is mapped
    here, `agent` serves other ranks' requests and asks for those homes that are not mapped. Any thread may call
    any method.

    A process forked from a rank shares the rank's identity in the heap: there every call raises ForkedRank.
    """

    def __init__(
        self,
        control: int,
        layout: HeapLayout,
        mapped_ranks: Collection[int],
        agent: Agent,
        timeout_s: float = 60.0,
    ):
        self.control, self.timeout_s = control, timeout_s
        self.rank, self.num_ranks = self._word(CONTROL_RANK), self._word(CONTROL_NUM_RANKS)
        self._agent = agent
        self._holder = (self.rank + 1) | os.getpid() << HOLDER_INCARNATION_SHIFT
        self.sites = Sites(layout, self.rank, mapped_ranks)
        self._by_home = self.sites.by_home
        self._magazines = Magazines(layout, self.sites, control, self._holder, timeout_s)
        self._epoch = ctypes.c_int64.from_address(control + 8 * CONTROL_EPOCH)
        self._seen_epoch = 0  # so that deaths before this heap are seen too
        self._alloc: Callable[..., int] = self._first_alloc
        self._free: Callable[..., int] = self._first_free
        self._refusal: Callable[..., NoReturn] | None = None
        self._context = self._serve(agent)
        belongs_here(self)

    @property
    def holder(self) -> int:
        """The word by which this process holds locks of arenas: for code that works on magazines of its own."""
        return self._holder

    # --- allocate and free

    def alloc(self, num_bytes: int, home: int | str = "local", align: int = DEFAULT_ALIGN) -> int:
        """Address of `num_bytes` of uninitialised memory at `home`, at a multiple of `align`.

        `home` is a rank (its device memory), "local", "host" (this rank's host memory) or "striped".
        `align` is a power of two up to 2 MiB; 64 is always given. Raises OutOfMemory, RankLost.
        """
        num_bytes, align = whole(num_bytes, "num_bytes", 0), whole(align, "align")
        if home.__class__ is not int:
            home = home_of(home)  # or True and 1.0 would be found as rank 1
        if align <= 0 or align & (align - 1) or align > MAX_ALIGNMENT:
            raise ConfigError(f"align={align} is not a power of two up to {MAX_ALIGNMENT}")
        if self._epoch.value != self._seen_epoch:
            self.reclaim()
        site = self._by_home.get(home) or self.sites.at_home(home)
        if site.is_mapped and num_bytes <= site.arena.num_bytes:
            magazine = site.magazines.get(threading.get_ident()) or self._magazines.open(site)
            address = self._alloc(self.control, site.metadata, magazine, num_bytes, align)
            if address > status.AGAIN:
                return address
        return self._alloc_slowly(site, num_bytes, align)

    def free(self, address: int) -> None:
        """Drop this rank's reference to the allocation at `address`; the last reference frees it.

        What only its owner holds may be freed by any rank. Raises DoubleFree, NotAllocated (in the middle
        of an allocation, or where none is), AddressError outside all segments; then nothing has changed.
        """
        if self._epoch.value != self._seen_epoch:
            self.reclaim()
        address = whole(address, "address")
        site = self.sites.of_address(address)
        if site.is_mapped:
            magazine = site.magazines.get(threading.get_ident()) or self._magazines.open(site)
            code = self._free(self.control, site.metadata, magazine, address)
            if code == status.AGAIN:
                step = partial(self._free, self.control, site.metadata, magazine, address)
                code = self._finish(site, step)
        else:
            code = self._ask(site, HeapOperation.FREE, address).status
        if code != status.OK:
            self._refuse(site, address, code)

    def retain(self, address: int, rank: int | None = None, generation: int = ANY_GENERATION) -> None:
        """Give `rank` (this one unless given) a reference to the allocation at `address`.

        Somebody's reference must keep it alive meanwhile. A rank holds an allocation once, however often
        it is given: each process counts its own uses. With `generation`, raises NotAllocated where
        another allocation has taken the place.
        """
        address = whole(address, "address")
        site = self.sites.of_address(address)
        holder = self.rank if rank is None else rank
        if site.is_mapped:
            words = (self.control, site.metadata, self._holder, address, holder, generation)
            code = self._finish(site, partial(kernel.retain, *words))
        else:
            code = self._ask(site, HeapOperation.RETAIN, address, holder, generation).status
        if code == status.BAD_REQUEST:
            raise ConfigError(f"rank {holder} is not between 0 and {self.num_ranks - 1}")
        if code != status.OK:
            self._refuse(site, address, code)

    def give(self, address: int, owner: int = WORLD) -> None:
        """Make rank `owner` the owner of an allocation that this rank owns; WORLD: all ranks together.

        What the world owns is freed by any rank, once, and outlives every rank. Raises NotAllocated where
        this rank is not the owner.
        """
        address = whole(address, "address")
        site = self.sites.of_address(address)
        if owner != WORLD and not 0 <= owner < self.num_ranks:
            raise ConfigError(f"rank {owner} is not between 0 and {self.num_ranks - 1}")
        heir = WORLD_RANK if owner == WORLD else owner
        if site.is_mapped:
            words = (self.control, site.metadata, self._holder, address, self.rank, heir)
            code = self._finish(site, partial(kernel.give, *words))
        else:
            code = self._ask(site, HeapOperation.GIVE, address, heir).status
        if code != status.OK:
            self._refuse(site, address, code)

    def trim(self) -> None:
        """Return the calling thread's stock of free slots to the shared core of every arena."""
        for site in self.sites.all:
            magazine = site.magazines.get(threading.get_ident())
            if magazine is not None:
                self._magazines.flush(site, magazine)

    # --- who holds what

    def find(self, address: int) -> Allocation:
        """The allocation that covers `address`. Raises NotAllocated where there is none."""
        address = whole(address, "address")
        site = self.sites.of_address(address)
        row = (ctypes.c_int64 * LIST_WORDS)()
        if site.is_mapped:
            code = kernel.find(site.metadata, address, ctypes.addressof(row))
        else:
            code = self._ask(site, HeapOperation.FIND, address, row=row).status
        if code != status.OK:
            self._refuse(site, address, code)
        return Allocation.of_row(row)

    def owner_of(self, address: int) -> int:
        """The rank that owns the allocation that covers `address`; report.WORLD where all ranks own it."""
        return self.find(address).owner

    def usage(self) -> list[ArenaUsage]:
        """The contents of every arena of the world, by owner, but those of dead ranks that are not mapped."""
        return [self.usage_of(site) for site in self.sites.reachable()]

    def usage_of(self, site: Site) -> ArenaUsage:
        """The contents of one arena, by owner."""
        words = (ctypes.c_int64 * (USAGE_OWNERS + (self.num_ranks + 1) * OWNER_WORDS))()
        if site.is_mapped:
            kernel.usage(site.metadata, self.num_ranks, ctypes.addressof(words))
        else:
            site.check(self._ask(site, HeapOperation.USAGE, row=words).status)
        return ArenaUsage.of_words(site.arena, list(words), self.num_ranks)

    def snapshot(self) -> list[Allocation]:
        """Every live allocation of the world, in order of address within an arena. A walk, not one moment."""
        return [allocation for site in self.sites.reachable() for allocation in self._allocations(site)]

    def reclaim(self) -> tuple[int, int]:
        """Reclaim the allocations of dead ranks in the arenas of this rank, and in those of dead homes that it maps.

        Runs by itself at the first call after a death. Returns allocations and bytes taken back.
        """
        self._seen_epoch = self._epoch.value
        states = (ctypes.c_int64 * self.num_ranks).from_address(self.control + 8 * CONTROL_PEER_STATE)
        dead = frozenset(rank for rank, state in enumerate(states) if state == DEAD)
        self.sites.bury(dead)
        freed = (ctypes.c_int64 * 3)()
        for site in self.sites.all:
            if site.is_mapped and (site.arena.home == self.rank or site.arena.home in dead):
                words = (self.control, site.metadata, self._holder, ctypes.addressof(freed))
                site.check(self._finish(site, partial(kernel.reclaim_dead, *words)))
        return freed[0], freed[1]

    def close(self) -> None:
        """Refuse every call from now on; before the memory is unmapped."""
        make_error = partial(WorldError, "the space of this heap is closed")
        self._shut(make_error)
        refuse(self, make_error, keep=("close",))

    def disown(self, make_error: MakeError) -> None:
        """In a forked child: refuse every call, for it would change the heap in the rank's name."""
        self._shut(make_error)
        refuse(self, make_error)

    # --- helpers

    def _first_alloc(self, *words: int) -> int:
        self._load()
        return self._alloc(*words)

    def _first_free(self, *words: int) -> int:
        self._load()
        return self._free(*words)

    def _load(self) -> None:
        """Load what allocates and what frees, together: a finalizer that frees finds it loaded."""
        self._alloc, self._free = kernel.alloc.compiled, kernel.free.compiled
        if self._refusal is not None:  # another thread has closed the heap meanwhile
            self._alloc = self._free = self._refusal

    def _alloc_slowly(self, site: Site, num_bytes: int, align: int) -> int:
        """What `alloc` does where the first attempt did not give an address."""
        arena = site.arena
        if num_bytes > arena.num_bytes:
            address = status.NO_MEMORY
        elif site.is_mapped:
            magazine = site.magazines.get(threading.get_ident()) or self._magazines.open(site)
            words = (self.control, site.metadata, magazine, num_bytes, align)
            address = self._finish(site, partial(self._alloc, *words))
        else:
            code, address, _ = self._agent.client.request(site.arena.home, ALLOC, site.kind, num_bytes, align)
            if code != status.OK:
                address = code
        if address == status.NO_MEMORY:
            near = [other for other in self.sites.all if other.is_mapped or other is site]
            usages = [self.usage_of(other) for other in near]
            raise OutOfMemory(out_of_memory_text(num_bytes, arena, usages))
        site.check(min(address, status.OK))
        return address

    def _serve(self, agent: Agent) -> ctypes.Array[ctypes.c_int64]:
        """Register the handlers; returns the words that they work on, which must stay alive."""
        context = (ctypes.c_int64 * CONTEXT_WORDS)()
        context[CONTEXT_CONTROL], context[CONTEXT_HOLDER] = self.control, self._holder
        for site in self.sites.all:
            if site.arena.home == self.rank:
                context[CONTEXT_ARENAS + site.arena.kind] = site.metadata
                context[CONTEXT_MAGAZINES + site.arena.kind] = self._magazines.guest(site)
        for operation, handler in HEAP_HANDLERS.items():
            agent.register(operation, handler, context=ctypes.addressof(context))
        return context

    def _ask(self, site: Site, operation: int, *words: int, row: ctypes.Array | None = None) -> Reply:
        """Ask the agent at the arena's home; the bytes of its reply go to `row`."""
        room = (
            {} if row is None else {"dst": ctypes.addressof(row), "capacity": ctypes.sizeof(row), "keep": row}
        )
        kind = int(
            site.arena.kind
        )  # for a member of an enum Numba works out its type anew, which takes 100 us
        return self._agent.client.request(site.arena.home, operation, kind, *words, **room)

    def _allocations(self, site: Site) -> Iterator[Allocation]:
        number = 0
        while number != END_OF_SLOTS:
            rows = (ctypes.c_int64 * (ROWS_PER_CALL * LIST_WORDS))()
            if site.is_mapped:
                number = kernel.list_live(site.metadata, number, ctypes.addressof(rows), ROWS_PER_CALL)
            else:
                reply = self._ask(site, HeapOperation.LIST, number, ROWS_PER_CALL, row=rows)
                site.check(reply.status)
                number = reply.value
            for row in np.ctypeslib.as_array(rows).reshape(ROWS_PER_CALL, LIST_WORDS):
                if row[0] == 0:
                    break
                yield Allocation.of_row(row)

    def _finish(self, site: Site, step: Callable[[], int]) -> int:
        return site.finish(step, self.timeout_s)

    def _refuse(self, site: Site, address: int, code: int) -> NoReturn:
        """Raise the typed error for a refused address."""
        if code == status.DOUBLE_FREE:
            raise DoubleFree(f"the allocation at {address:#x} ({site.arena.name}) has been freed before")
        if code == status.INTERIOR:
            found = self.find(address)
            raise NotAllocated(
                f"address {address:#x} is {address - found.address} bytes into the allocation at"
                f" {found.address:#x} of {found.num_bytes} bytes; use its first address"
            )
        if code == status.NOT_HELD:
            raise NotAllocated(f"rank {self.rank} holds no reference to the allocation at {address:#x}")
        if code == status.STALE:
            raise NotAllocated(f"another allocation has taken the place of {address:#x} ({site.arena.name})")
        if code in (status.NOT_ALLOCATED, status.OUT_OF_RANGE):
            raise NotAllocated(f"no allocation is at {address:#x} ({site.arena.name}): never made, or freed")
        site.check(code)
        raise AssertionError(f"free of {address:#x}: status {code}")

    def _word(self, index: int) -> int:
        return ctypes.c_int64.from_address(self.control + 8 * index).value

    def _shut(self, make_error: MakeError) -> None:
        def refusal(*_: object) -> NoReturn:
            raise make_error()

        self._refusal = refusal  # first: `_load` looks at it last
        self._alloc = self._free = refusal
