"""How a process joins the world it was started for, once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace

from .. import config, limits
from ..errors import ForkedRank, WaitTimeout, WorldError
from . import interfaces, launchers, liveness, meeting, torchrun
from .frames import Channel
from .rendezvous import Alone, HubClient, Rendezvous
from .spec import HOSTS, MAPPED, NO_PEER_ACCESS, WorldSpec
from .world import Place, World


@dataclass(frozen=True)
class Bootstrap:
    """The data that a launcher hands to a rank through fork: its rank, and its channel to the others."""

    spec: WorldSpec
    rank: int
    channel: Channel
    ip_address: str
    interface: str
    core: int | None
    usable_cores: tuple[int, ...]


@dataclass(frozen=True)
class Meeting:
    """A store of torch.distributed in which ranks meet that are placed already."""

    store: torchrun.Store
    rank: int
    num_ranks: int
    timeout_s: float


@dataclass
class _Process:
    """This process's state in worlds. A fork of a rank inherits it, so it names its pid."""

    bootstrap: Bootstrap | None = None
    current: World | None = None
    pid: int = 0
    # Kept between stays: other ranks may still need the store that rank 0 opened.
    store: torchrun.Store | None = None
    channel: Channel | None = None  # to the hub of mpirun's or srun's ranks
    generation: int = 0  # part of every key: ranks that leave and join again meet afresh

    @property
    def rank(self) -> int:
        """The rank that this process is, or whose fork it is."""
        if self.current is not None:
            return self.current.rank
        return 0 if self.bootstrap is None else self.bootstrap.rank

    def is_fork_of_member(self) -> bool:
        """Whether this process was forked from one that is a rank or in a world."""
        is_member = self.bootstrap is not None or (self.current is not None and not self.current.has_left)
        return is_member and self.pid != os.getpid()


_process = _Process()


def current() -> World | None:
    """The world that this process is in, or None."""
    world = _process.current
    return world if world is not None and not world.has_left and _process.pid == os.getpid() else None


def join(spec: WorldSpec | None = None, meeting: Meeting | None = None) -> World:
    """Join the world that this process was started for. Collective: every rank of it.

    A rank of `umem run` or `umem.launch` meets the others in its launcher; one of torchrun, or of any launcher that
    sets RANK, WORLD_SIZE and MASTER_ADDR, in torch's TCPStore; one of mpirun, mpiexec or srun in rank 0; any other
    process is a world of one. `spec` sets memory and waits; the launcher sets the number of ranks and the kind of
    world. A rank that umem has not started itself meets the others in `meeting`, where one is given.

    Raises WorldError where this process is in a world already, ForkedRank where it is a fork of a rank,
    RankLost where a rank died before it joined, WaitTimeout where one never comes.
    """
    if current() is not None:
        raise WorldError("this process is in a world already; leave it first (space.close())")
    if _process.is_fork_of_member():
        raise ForkedRank(_process.rank, _process.pid)
    _process.pid = os.getpid()
    if _process.bootstrap is not None:
        world = _join_launched(_process.bootstrap, spec)
    elif meeting is not None:
        world = _join_store(WorldSpec.of() if spec is None else spec, meeting)
    elif torchrun.is_requested():
        world = _join_torchrun(spec, torchrun.request())
    elif (request := launchers.request()) is not None and request.num_ranks > 1:
        world = _join_requested(spec, request)
    else:
        world = _join_alone(spec)
    _process.current = world
    _process.generation += 1
    return world


def is_fork_of_rank() -> bool:
    """Whether this process was forked from a rank, and so may not speak for it."""
    return _process.is_fork_of_member()


def become_rank(bootstrap: Bootstrap) -> None:
    """Make this process the rank of `bootstrap`, whose world `join` then joins."""
    _process.bootstrap = bootstrap
    _process.pid = os.getpid()


def _join_launched(bootstrap: Bootstrap, spec: WorldSpec | None) -> World:
    asked = bootstrap.spec
    if spec is not None:
        asked = spec.placed(asked.num_ranks, asked.kind, asked.num_hosts)
    place = _place(bootstrap.ip_address, bootstrap.core)
    rendezvous = HubClient(bootstrap.channel, _process.generation)
    places = _meet(rendezvous, place, asked.timeout_s)
    interface, usable_cores = bootstrap.interface, bootstrap.usable_cores
    return World(bootstrap.rank, asked, rendezvous, places, interface, usable_cores, _process.generation)


def _join_alone(spec: WorldSpec | None) -> World:
    asked = WorldSpec.of() if spec is None else spec
    asked = asked.placed(1, asked.kind, 1)
    interface, ip_address = interfaces.choose(None)
    place = _place(ip_address, None)
    return World(0, asked, Alone(), [place], interface, tuple(limits.usable_cores()), _process.generation)


def _join_torchrun(spec: WorldSpec | None, request: torchrun.Request) -> World:
    asked = WorldSpec.of() if spec is None else spec
    if _process.store is None:
        _process.store = torchrun.open_store(request, asked.timeout_s)
    return _join_store(asked, Meeting(_process.store, request.rank, request.num_ranks, asked.timeout_s))


def _join_store(asked: WorldSpec, meeting: Meeting) -> World:
    asked = replace(asked, timeout_s=meeting.timeout_s)
    rendezvous = torchrun.StoreRendezvous(meeting.store, meeting.rank, meeting.num_ranks)
    world = _join_met(asked, rendezvous, meeting.rank, meeting.num_ranks)
    neighbours = [rank for rank in range(world.num_ranks) if rank != world.rank and world.shares_pids(rank)]
    rendezvous.pidfds = {rank: world.pidfd(rank) for rank in neighbours}
    return world


def _join_requested(spec: WorldSpec | None, request: launchers.Request) -> World:
    """The world of a launcher that offers no place to meet: in rank 0 on one host, else in torch's TCPStore."""
    if not request.is_one_host:
        return _join_torchrun(spec, torchrun.request_of(request))
    asked = WorldSpec.of() if spec is None else spec
    if _process.channel is None:
        _process.channel = meeting.enter(request, asked.timeout_s)
    try:
        return _join_met(
            asked, HubClient(_process.channel, _process.generation), request.rank, request.num_ranks
        )
    except WaitTimeout as error:
        raise WaitTimeout(
            f"{error}; {request.launcher} started {request.num_ranks} ranks, and each must call umem.init()"
        ) from None


def _join_met(asked: WorldSpec, rendezvous: Rendezvous, rank: int, num_ranks: int) -> World:
    """The world of ranks that another launcher placed; its kind follows from their hosts."""
    network = asked.network or config.text("UMEM_NETWORK")
    interface, ip_address = interfaces.choose(network)
    usable_cores = tuple(limits.usable_cores())
    places = _meet(rendezvous, _place(ip_address, None), asked.timeout_s)
    num_machines = len({other.machine for other in places})
    if num_machines > 1 and network is None:
        raise WorldError(
            f"the ranks run on {num_machines} machines, and umem keeps its traffic, which is not"
            " authenticated, on loopback; name the interface that it may use: UMEM_NETWORK=IFACE"
        )
    num_hosts = len({other.host for other in places})
    kind = HOSTS if num_hosts > 1 else NO_PEER_ACCESS if asked.kind == NO_PEER_ACCESS else MAPPED
    asked = asked.placed(num_ranks, kind, num_hosts)
    return World(rank, asked, rendezvous, places, interface, usable_cores, _process.generation)


def _place(ip_address: str, core: int | None) -> Place:
    return Place(config.host_name(), liveness.machine_id(), os.getpid(), ip_address, core)


def _meet(rendezvous: Rendezvous, place: Place, timeout_s: float) -> list[Place]:
    """The first exchange: each rank's place. A rank that died at start-up is noticed here."""
    blobs = rendezvous.gather(f"join {_process.generation}", json.dumps(vars(place)).encode(), timeout_s)
    return [Place(**json.loads(blob)) for blob in blobs]
