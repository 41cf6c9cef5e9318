"""World: a rank's view of the ranks it is among, and how a process joins one."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass

from .. import config
from ..errors import RankLost, WorldError
from . import descriptors, interfaces, liveness, torchrun
from .frames import Channel
from .rendezvous import Alone, HubClient, Rendezvous
from .spec import HOSTS, LOOPBACK, MAPPED, NO_PEER_ACCESS, WorldSpec, ucx_environment


@dataclass(frozen=True)
class Place:
    """What a rank tells the others about itself. `machine` names whose pids it shares."""

    host: str
    machine: str
    pid: int
    ip_address: str
    core: int | None


@dataclass(frozen=True)
class Bootstrap:
    """What a launcher hands to a rank through fork: who it is and how it meets the others."""

    spec: WorldSpec
    rank: int
    channel: Channel
    ip_address: str
    interface: str
    core: int | None
    usable_cores: tuple[int, ...]


@dataclass
class _Process:
    """What this process knows about worlds. A fork of a rank inherits it, so it names its pid."""

    bootstrap: Bootstrap | None = None
    current: World | None = None
    pid: int = 0
    num_joins: int = 0


class World:
    """The ranks of a world as one of them sees it. Made by `join`.

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
        self._left = False

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
        unique = f"{self._generation}/{key}/{self._num_exchanges[key]}"
        return self._rendezvous.gather(unique, blob, self._deadline_s(timeout_s))

    def set(self, key: str, blob: bytes) -> None:
        """Store `blob` under `key` for every rank; a later value replaces an earlier one."""
        self._check_open()
        self._rendezvous.set(f"{self._generation}/{key}", blob, self.spec.timeout_s)

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """The blob that some rank has set, or sets within `timeout_s`, under `key`.

        Which rank would set it is not known, so a death does not end the wait early; at its end it is
        RankLost where a rank of this machine has died, else WaitTimeout.
        """
        self._check_open()
        try:
            return self._rendezvous.get(f"{self._generation}/{key}", self._deadline_s(timeout_s))
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

    def leave(self) -> None:
        """Leave the world; this process may then join again where its launcher still runs. Idempotent."""
        if self._left:
            return
        self._left = True
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._rendezvous.close()
        if _process.current is self:
            _process.current = None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, num_ranks={self.num_ranks}, kind={self.spec.kind!r}, host={self.host!r})"

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self.spec.timeout_s if timeout_s is None else timeout_s

    def _check_open(self) -> None:
        if self._left:
            raise WorldError("this rank has left its world")


_process = _Process()


def current() -> World | None:
    """The world that this process is in, or None."""
    return _process.current if _process.pid == os.getpid() else None


def join(spec: WorldSpec | None = None) -> World:
    """Join the world that this process was started for. Collective: every rank of it.

    A rank of `umem run` or `umem.launch` meets the others in its launcher; one that another launcher
    started, with RANK, WORLD_SIZE and MASTER_ADDR set, in torch's TCPStore; any other process is a world
    of one. `spec` says what is wished for memory and waits; how many ranks there are, and of which kind,
    is the launcher's to say.

    Raises WorldError where this process is in a world already or is a fork of a rank, RankLost where a
    rank died before it joined, WaitTimeout where one never comes.
    """
    if _process.current is not None:
        if _process.pid == os.getpid():
            raise WorldError("this process is in a world already; leave it first (space.close())")
        raise WorldError(f"this process is a fork of rank {_process.current.rank}, and only the rank is in its world")
    _process.pid = os.getpid()
    _process.num_joins += 1  # part of every key: ranks that leave and join again meet afresh
    if _process.bootstrap is not None:
        world = _join_launched(_process.bootstrap, spec)
    elif torchrun.is_requested():
        world = _join_torchrun(spec)
    else:
        world = _join_alone(spec)
    _process.current = world
    return world


def become_rank(bootstrap: Bootstrap) -> None:
    """Make this process the rank that `bootstrap` describes: what `join` then joins."""
    _process.bootstrap = bootstrap
    _process.pid = os.getpid()


def _join_launched(bootstrap: Bootstrap, spec: WorldSpec | None) -> World:
    asked = bootstrap.spec
    if spec is not None:
        asked = spec.placed(asked.num_ranks, asked.kind, asked.num_hosts)
    place = _place(bootstrap.ip_address, bootstrap.core)
    rendezvous = HubClient(bootstrap.channel)
    places = _meet(rendezvous, place, asked.timeout_s)
    return World(
        bootstrap.rank, asked, rendezvous, places, bootstrap.interface, bootstrap.usable_cores, _process.num_joins
    )


def _join_alone(spec: WorldSpec | None) -> World:
    asked = WorldSpec.of() if spec is None else spec
    asked = asked.placed(1, asked.kind, 1)
    place = _place(interfaces.ip_address_of(LOOPBACK), None)
    return World(0, asked, Alone(), [place], LOOPBACK, tuple(config.usable_cores()), _process.num_joins)


def _join_torchrun(spec: WorldSpec | None) -> World:
    asked = WorldSpec.of() if spec is None else spec
    request = torchrun.request()
    network = asked.network or config.text("UMEM_NETWORK")
    interface = network or LOOPBACK
    usable_cores = tuple(config.usable_cores())
    place = _place(interfaces.ip_address_of(interface), None)
    rendezvous = torchrun.StoreRendezvous(
        torchrun.open_store(request, asked.timeout_s), request.rank, request.num_ranks
    )
    places = _meet(rendezvous, place, asked.timeout_s)
    num_machines = len({other.machine for other in places})
    if num_machines > 1 and network is None:
        raise WorldError(
            f"the ranks run on {num_machines} machines, and umem keeps its traffic, which is not authenticated, on"
            " loopback; name the interface that it may use: UMEM_NETWORK=IFACE"
        )
    num_hosts = len({other.host for other in places})
    kind = HOSTS if num_hosts > 1 else NO_PEER_ACCESS if asked.kind == NO_PEER_ACCESS else MAPPED
    asked = asked.placed(request.num_ranks, kind, num_hosts)
    world = World(request.rank, asked, rendezvous, places, interface, usable_cores, _process.num_joins)
    rendezvous.pidfds = {
        rank: world.pidfd(rank) for rank in range(world.num_ranks) if rank != world.rank and world.shares_pids(rank)
    }
    return world


def _place(ip_address: str, core: int | None) -> Place:
    return Place(config.host_name(), liveness.machine_id(), os.getpid(), ip_address, core)


def _meet(rendezvous: Rendezvous, place: Place, timeout_s: float) -> list[Place]:
    """The first exchange: who is where. It is also where a rank that died at start-up is noticed."""
    blobs = rendezvous.gather(f"{_process.num_joins}/join", json.dumps(vars(place)).encode(), timeout_s)
    return [Place(**json.loads(blob)) for blob in blobs]
