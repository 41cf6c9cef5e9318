"""install and use_pool: torch's CPU allocator over the heap of a space, for the thread that asks for it.

Inside `use_pool` all memory that torch allocates on the CPU comes from the homes named: for factory functions,
outputs of operations, parameters, gradients, optimizer state, and torch.load. A storage is freed at
its home whenever its last use ends: on any thread, inside or outside of the context, in any order.
"""

from __future__ import annotations

import atexit
import gc
import os
import threading
from collections.abc import Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from ..errors import AllocatorRefused, ConfigError, NotMappable, WorldError
from ..heap.layout import ArenaKind
from ..heap.sites import Site
from ..space.space import Space
from ..world.spec import NO_PEER_ACCESS
from . import callbacks, shim
from .c10 import C10, make_object
from .closing import AtClose, describe_live, let_stay
from .flight import Flights
from .layout import (
    CLOSED,
    FORKED,
    MAX_SITES,
    OPEN,
    PAGE_ADDRESS,
    PAGE_ALLOCATE_SLOWLY,
    PAGE_CONTROL,
    PAGE_DELETE,
    PAGE_FREE_SLOWLY,
    PAGE_HIGH,
    PAGE_LINEAR_BASE,
    PAGE_LOW,
    PAGE_MODE,
    PAGE_NUM_FREES,
    PAGE_NUM_SHARED,
    PAGE_NUM_SITES,
    PAGE_SITES,
    PAGE_STRIDE_LOG2,
    PAGE_STRIPED_BASE,
    PAGE_STRIPED_SITE,
    PAGE_TIMEOUT_NS,
    PAGE_USES,
    PAGE_USES_LOG2,
    POLICY_NUM_HOMES,
    POLICY_SITES,
    POLICY_TEXT,
    POLICY_TEXT_BYTES,
    SITE_ARENA,
    SITE_GUEST,
    SITE_WORDS,
    TEXT_BYTES,
    THREAD_MAGAZINES,
    THREAD_NUM_ALLOCS,
    THREAD_NUM_BYTES,
    THREAD_NUM_FREES,
    THREAD_NUM_PLACED,
    THREAD_NUM_SPILLED,
)
from .memory import Words, keep_forever, lasting_text, lasting_words, page, words_at
from .threads import Threads, open_guest
from .uses import ENTRY_WORDS, move_uses

Home = int | str
Homes = Sequence[Home]

USES_LOG2 = 10  # places of the first table of local uses


@dataclass(frozen=True)
class Policy:
    """Homes to try in order: its words, which compiled code reads, and the numbers of its sites."""

    address: int
    sites: tuple[int, ...]


class Pool:
    """The heap of a space as torch's allocator uses it. One a process; `install` makes it."""

    def __init__(self, space: Space, at_close: AtClose, lease_s: float):
        self.space, self.heap, self.at_close = space, space.heap, at_close
        self.page = page()
        self.sites = self._sites()
        self._policies: dict[tuple[Home, ...], Policy] = {}
        self.flights = Flights(self.heap, space.page.dead_ranks, lease_s)
        self.threads = Threads(self.page, self.heap, self.heap.holder, self.sites)
        self._fill_page()
        self.num_before = self._num_live()  # storages that outlived an earlier space of this process

    # --- homes

    def number_of(self, home: Home) -> int:
        """The number of a home's site. Raises UnknownName, RankLost, OutOfMemory, NotMappable."""
        if not self.heap.sites.dead.issuperset(self.space.page.dead_ranks()):
            self.heap.reclaim()
        site = self.heap.sites.at_home(home)
        for rank in self._ranks(site):
            self._check_rank(rank, f"home={home!r}")
        return self._number(site)

    def number_at(self, address: int) -> int:
        """The number of the site that manages an address of the pool."""
        return self._number(self.heap.sites.of_address(address))

    def check_mapped(self, address: int) -> None:
        """Raise NotMappable where this rank cannot map the memory of the arena at `address`."""
        for rank in self._ranks(self.heap.sites.of_address(address)):
            self._check_rank(rank, f"address {address:#x}")

    def check_mapped_by(self, reader: int, address: int) -> None:
        """Raise NotMappable where rank `reader` cannot map the memory of the arena at `address`."""
        world = self.space.world
        for rank in self._ranks(self.heap.sites.of_address(address)):
            is_far = world.spec.kind == NO_PEER_ACCESS or world.hosts[rank] != world.hosts[reader]
            if is_far and rank != reader:
                raise NotMappable(
                    f"rank {reader} cannot map the memory of rank {rank}, where a tensor at {address:#x} lives;"
                    " send(..., staged=True) sends its bytes"
                )

    def _check_rank(self, rank: int, place: str) -> None:
        if rank not in self.space.segments.mapped_ranks:
            raise NotMappable(
                f"{place}: torch reads its memory by plain loads, and rank {self.space.rank} cannot map that of rank"
                f" {rank}; use homes that are mapped, and space.put/get to move data there"
            )

    def _ranks(self, site: Site) -> tuple[int, ...]:
        """The ranks whose memory an arena manages."""
        is_striped = site.arena.kind is ArenaKind.STRIPED
        return tuple(self.space.segments.map.members) if is_striped else (site.arena.home,)

    def policy(self, homes: tuple[Home, ...]) -> Policy:
        """The policy that tries `homes` in order. Raises the typed error for a home that cannot be used."""
        numbers = [self.number_of(home) for home in homes]
        if homes not in self._policies:
            self._policies[homes] = self._make_policy(homes, numbers)
        return self._policies[homes]

    def enter(self, policy: Policy) -> None:
        """Put a policy in force for the calling thread."""
        part = self.threads.current()
        for number in policy.sites:
            if not part.words[THREAD_MAGAZINES + number]:
                self.threads.open(part, number)
        part.enter(policy.address)

    def leave(self) -> None:
        """Restore, for the calling thread, the policy from before."""
        self.threads.current().leave()

    def _make_policy(self, homes: tuple[Home, ...], numbers: list[int]) -> Policy:
        where = ", ".join(map(repr, homes))
        text = f"umem: no room at home {where}; umem.torch.memory_summary() says what is free where, use_pool"
        text += "(spill=...) names more homes, --segment makes larger ones. Bytes in one piece: "
        encoded = text.encode()[: TEXT_BYTES - callbacks.DIGITS - 1]
        address = lasting_words(POLICY_SITES + len(numbers))
        words = words_at(address, POLICY_SITES + len(numbers))
        words[POLICY_NUM_HOMES] = len(numbers)
        words[POLICY_TEXT], words[POLICY_TEXT_BYTES] = lasting_text(encoded), len(encoded)
        words[POLICY_SITES:] = numbers  # type: ignore[assignment]
        return Policy(address, tuple(numbers))

    def _number(self, site: Site) -> int:
        if site.arena.kind is ArenaKind.STRIPED:
            return 2 * self.space.num_ranks
        return 2 * site.arena.home + site.arena.kind

    def _sites(self) -> dict[int, Site]:
        return {self._number(site): site for site in self.heap.sites.all if site.is_mapped}

    def _fill_page(self) -> None:
        plan, words = self.space.segments.map, self.page
        assert 2 * self.space.num_ranks < MAX_SITES
        words[PAGE_LOW], words[PAGE_HIGH] = plan.linear_base, plan.striped_end
        words[PAGE_CONTROL] = self.space.control
        words[PAGE_LINEAR_BASE], words[PAGE_STRIPED_BASE] = plan.linear_base, plan.striped_base
        words[PAGE_STRIDE_LOG2] = plan.stride.bit_length() - 1
        words[PAGE_STRIPED_SITE] = 2 * self.space.num_ranks
        words[PAGE_NUM_SITES] = 2 * self.space.num_ranks + 1
        words[PAGE_TIMEOUT_NS] = int(self.space.timeout_s * 1e9)
        words[PAGE_NUM_SHARED] = 0
        words[PAGE_USES], words[PAGE_USES_LOG2] = lasting_words(ENTRY_WORDS << USES_LOG2), USES_LOG2
        for number, site in self.sites.items():
            row = PAGE_SITES + number * SITE_WORDS
            words[row + SITE_ARENA] = site.metadata
            words[row + SITE_GUEST] = open_guest(site, self.heap.holder, self.heap.rank)

    def grow_uses(self) -> None:
        """Double the places in the table of local uses."""
        log2 = self.page[PAGE_USES_LOG2] + 1
        move_uses(PAGE_ADDRESS, lasting_words(ENTRY_WORDS << log2), log2)

    # --- what is alive

    def holds(self, pointer: int) -> bool:
        """Whether a storage's memory is the pool's."""
        return self.page[PAGE_LOW] <= pointer < self.page[PAGE_HIGH]

    def counters(self) -> dict[str, int]:
        """Counts of this process since umem.torch was imported: allocations, bytes, ..., by name."""
        total = self.threads.total
        return {
            "allocations": total(THREAD_NUM_ALLOCS),
            "bytes": total(THREAD_NUM_BYTES),
            "spilled": total(THREAD_NUM_SPILLED),
            "placed": total(THREAD_NUM_PLACED),
            "frees": total(THREAD_NUM_FREES) + self.page[PAGE_NUM_FREES],
        }

    def num_live(self) -> int:
        """Storages of the pool that live in this process."""
        return self._num_live() - self.num_before

    def _num_live(self) -> int:
        made = self.threads.total(THREAD_NUM_ALLOCS, THREAD_NUM_PLACED)
        return made - self.threads.total(THREAD_NUM_FREES) - self.page[PAGE_NUM_FREES]

    def before_close(self, is_forced: bool) -> None:
        """Let living tensors keep the space's memory, or raise WorldError to keep the space open: as `at_close` says.

        References in flight end first: their tensors could not be received any more.
        """
        self.flights.close()
        if self.num_live():
            gc.collect()
        num_live = self.num_live()
        if num_live:
            let_stay(
                f"{num_live} torch storages live", self.at_close, is_forced, partial(describe_live, self)
            )
        if num_live or self.threads.others_are_alive():
            self.space.keep_mapped()
        self._end()

    def rank_of(self, pointer: int) -> int:
        """The rank in whose segment an address of the pool lives."""
        return int(self.space.segments.map.home(pointer))

    def _end(self) -> None:
        """Give torch its own allocator back; storages that still live in the pool are never freed."""
        self.threads.trim()
        self.page[PAGE_MODE] = CLOSED
        assert _c10 is not None
        _c10.replace(_default_allocator)
        self.threads.close()


class use_pool(ContextDecorator):
    """Context in which torch's CPU allocations of the calling thread come from `home`.

    `home` and each of `spill`, which are tried in order when it is full, is a rank, "local", "striped" or
    "host". Contexts nest, one object may be entered again, and by several threads; threads that are started
    inside are not in it. Needs `install`. Raises UnknownName, NotMappable, RankLost; an allocation for which
    no home has room raises RuntimeError inside torch, as torch's own allocator does.
    """

    def __init__(self, home: Home = "local", spill: Homes = ()):
        if isinstance(spill, str | int):
            raise ConfigError(f"spill={spill!r} must be a tuple of homes: spill=({spill!r},)")
        self._pool = installed()
        self._policy = self._pool.policy((home, *spill))

    def __enter__(self) -> use_pool:
        if self._pool is not installed():
            raise WorldError("this use_pool belongs to a space that is closed")
        self._pool.enter(self._policy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.leave()


def open_pool(space: Space, at_close: AtClose, lease_s: float) -> Pool:
    """The pool of `space`, made unless it has one; from here on our allocator serves torch."""
    global _pool
    with _open_lock:
        if page()[PAGE_MODE] == FORKED:
            raise WorldError(
                "this process is a fork of a rank: it shares the rank's pool and cannot install its own"
            )
        if not space.is_open:
            raise WorldError("the space is closed")
        if _pool is not None and _pool.space is space and page()[PAGE_MODE] == OPEN:
            _pool.at_close, _pool.flights.lease_s = at_close, lease_s
            return _pool
        pool = Pool(space, at_close, lease_s)
        _take_over(pool.page)
        pool.page[PAGE_MODE] = OPEN
        _pool = pool
        space.before_close(pool.before_close)
        return pool


def pool_or_none() -> Pool | None:
    """The open pool of this process, or None."""
    return _pool if _pool is not None and _pool.page[PAGE_MODE] == OPEN else None


def inherited() -> Pool | None:
    """In a fork of a rank the rank's pool, whose memory is mapped here; else None."""
    return _pool if _pool is not None and _pool.page[PAGE_MODE] == FORKED else None


def installed() -> Pool:
    """The pool of this process. Raises WorldError where there is none, or the process is a fork of its rank."""
    if _pool is None or _pool.page[PAGE_MODE] != OPEN:
        if _pool is not None and _pool.page[PAGE_MODE] == FORKED:
            raise WorldError(
                "this process is a fork of a rank: its new tensors come from torch's own allocator"
            )
        raise WorldError("umem.torch has no space: call umem.torch.install(space) first")
    return _pool


def _take_over(words: Words) -> None:
    """Put our allocator in force; the first call also finds torch's own and makes ours over it."""
    global _own_allocator, _default_allocator, _c10
    if _c10 is None:
        c10 = C10()
        default = c10.allocator()
        try:
            own = make_object(words, c10, default)
        except AllocatorRefused as refusal:
            own = shim.make_object(words, c10, refusal)
        slow = callbacks.allocate_slowly, callbacks.free_slowly
        for callback in (callbacks.delete, *slow):
            keep_forever(callback.load())
        words[PAGE_DELETE] = callbacks.delete.address
        words[PAGE_ALLOCATE_SLOWLY], words[PAGE_FREE_SLOWLY] = (callback.address for callback in slow)
        _c10, _default_allocator, _own_allocator = c10, default, own
    _c10.replace(_own_allocator)


def _after_fork() -> None:
    """Leave, in the child, the parent's memory alone: torch's own allocator serves it."""
    if _pool is not None and _pool.page[PAGE_MODE] == OPEN:
        _pool.page[PAGE_MODE] = FORKED


def _at_exit() -> None:
    """Ignore what torch still frees while the process is taken apart: the heap may be gone already."""
    if _pool is not None and _pool.page[PAGE_MODE] == OPEN:
        _pool.page[PAGE_MODE] = CLOSED


_pool: Pool | None = None
_c10: C10 | None = None
_default_allocator = _own_allocator = 0
_open_lock = threading.Lock()

os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
