"""World: a rank's view of the ranks it is among."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from ..errors import RankLost, WorldError
from . import descriptors, liveness
from .forks import MakeError, belongs_here, refuse
from .rendezvous import Rendezvous
from .spec import NO_PEER_ACCESS, WorldSpec, ucx_environment

MAX_REASON = 500  # characters of the error that made a rank leave


@dataclass(frozen=True)
class Place:
    """A rank's place, as it sends it to the others. Ranks with one `machine` share their process ids."""

    host: str
    machine: str
    pid: int
    ip_address: str
    core: int | None


class World:
    """The ranks of a world as one of them sees it. Made by `membership.join`.

    For the thread that runs the user's code; `is_alive` and `pidfd` may be called from any thread.

    Attributes, each indexed by rank where it is a tuple:
        rank, num_ranks, spec
        hosts          host of each rank, as an explicit name
        pids           process of each rank; valid where `shares_pids(rank)`
        host           this rank's own
        ip_addresses   address at which each rank's network interface answers
        core           the core this rank is pinned to, or None
        usable_cores   the cores this rank might use, pinned or not (for its helper threads)
        interface      the network interface its traffic may use
    """

    def __init__(
        self,
        rank: int,
        spec: WorldSpec,
        rendezvous: Rendezvous,
        places: list[Place],
        interface: str,
        usable_cores: tuple[int, ...],
        generation: int,
    ):
        self.rank, self.num_ranks, self.spec = rank, spec.num_ranks, spec
        self.hosts = tuple(place.host for place in places)
        self.pids = tuple(place.pid for place in places)
        self.ip_addresses = tuple(place.ip_address for place in places)
        self.core = places[rank].core
        self.usable_cores = usable_cores
        self.interface = interface
        self._machines = tuple(place.machine for place in places)
        self._rendezvous = rendezvous
        self._generation = generation
        self._num_exchanges: Counter[str] = Counter()
        self._pidfds: dict[int, int] = {}
        self._has_left = False
        self._is_disowned = False
        belongs_here(self)

    @property
    def host(self) -> str:
        """This rank's host."""
        return self.hosts[self.rank]

    @property
    def ip_address(self) -> str:
        """The address at which this rank's network interface answers; 127.0.0.1 where all is local."""
        return self.ip_addresses[self.rank]

    @property
    def ucx_environment(self) -> dict[str, str]:
        """UCX variables that keep this world's traffic on the transports of its kind."""
        return ucx_environment(self.spec.kind, self.interface)

    def may_map(self, rank: int) -> bool:
        """Whether this rank may map the memory of `rank`: the same host, and the kind of world allows it."""
        if rank == self.rank:
            return True
        return self.spec.kind != NO_PEER_ACCESS and self.hosts[rank] == self.host

    def shares_pids(self, rank: int) -> bool:
        """Whether `pids[rank]` names a process of this machine."""
        return self._machines[rank] == self._machines[self.rank]

    def exchange(self, key: str, blob: bytes, timeout_s: float | None = None) -> list[bytes]:
        """Every rank's blob, by rank. Collective: every rank, each `key` in the same order.

        Raises RankLost where a rank ended without sending its own, WaitTimeout after `timeout_s`
        (default: the world's).
        """
        self._check_open()
        self._num_exchanges[key] += 1
        unique = self._unique(f"{key}, round {self._num_exchanges[key]}")
        return self._rendezvous.gather(unique, blob, self._deadline_s(timeout_s))

    def set(self, key: str, blob: bytes) -> None:
        """Store `blob` under `key` for every rank; a later value replaces an earlier one."""
        self._check_open()
        self._rendezvous.set(self._unique(key), blob, self.spec.timeout_s)

    def get(self, key: str, timeout_s: float | None = None, source: int | None = None) -> bytes:
        """The blob that some rank, or the rank `source`, has set or sets within `timeout_s` under `key`.

        Raises RankLost as soon as no rank is left that could set it. Without a `source` that is seldom known, and then
        RankLost comes at the end of the wait where a rank of this machine has died, else WaitTimeout.
        """
        self._check_open()
        try:
            return self._rendezvous.get(self._unique(key), self._deadline_s(timeout_s), source)
        except TimeoutError:
            for rank in range(self.num_ranks):
                if self.shares_pids(rank) and not self.is_alive(rank):
                    raise RankLost(rank, f"and nobody set {key!r}") from None
            raise

    def share_fds(self, key: str, fds: list[int]) -> dict[int, list[int]]:
        """Send `fds` to every other rank that may map this one; returns theirs, which the caller closes.

        Collective: every rank of the world, in the same order. Raises RankLost or WaitTimeout.
        """
        return descriptors.share(self, key, fds, self.spec.timeout_s)

    def pidfd(self, rank: int) -> int:
        """A descriptor that becomes readable when `rank` dies; the world keeps and closes it.

        Raises RankLost where it is dead already, WorldError where its process is on another machine.
        """
        if not self.shares_pids(rank):
            raise WorldError(f"rank {rank} runs on another machine: no pidfd names it here")
        if rank not in self._pidfds:
            self._pidfds[rank] = liveness.open_pidfd(self.pids[rank], rank)
        return self._pidfds[rank]

    def is_alive(self, rank: int) -> bool:
        """Whether `rank` lives, as far as this machine knows: True for ranks of other machines."""
        if not self.shares_pids(rank):
            return True
        try:
            return not liveness.has_ended(self.pidfd(rank))
        except RankLost:
            return False

    def await_living(self, key: str) -> None:
        """Wait until every rank that lives and has not left has called this too. Raises WaitTimeout."""
        self.set(f"{key}/{self.rank}", b"")
        for rank in range(self.num_ranks):
            with suppress(RankLost):
                self.get(f"{key}/{rank}", source=rank)

    def departed(self) -> Mapping[int, str]:
        """Ranks that errors made leave this world, and by which, as far as this one has heard; never waits."""
        return {} if self._has_left else self._rendezvous.departed()

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the world; this process may then join again where its launcher still runs. Idempotent.

        An `error` that is the reason is told to ranks that wait for this one.
        """
        if self._has_left or self._is_disowned:
            return
        self._has_left = True
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._rendezvous.close("" if error is None else _in_short(error))

    def disown(self, make_error: MakeError) -> None:
        """In a forked child: refuse every call, and leave the rank's place in the world alone."""
        self._is_disowned = True
        refuse(self, make_error, keep=("leave", "may_map", "shares_pids"))

    @property
    def has_left(self) -> bool:
        """Whether this rank has left the world."""
        return self._has_left

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)

    def __repr__(self) -> str:
        kind = self.spec.kind
        return f"World(rank={self.rank}, num_ranks={self.num_ranks}, kind={kind!r}, host={self.host!r})"

    def _unique(self, key: str) -> str:
        """The key in the rendezvous: as errors name it, and never that of an earlier stay of this process."""
        return key if self._generation == 0 else f"{key}, join {self._generation}"

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self.spec.timeout_s if timeout_s is None else timeout_s

    def _check_open(self) -> None:
        if self._has_left:
            raise WorldError("this rank has left its world")


def _in_short(error: BaseException) -> str:
    """The error in one line."""
    return traceback.format_exception_only(error)[-1].splitlines()[0][:MAX_REASON]
