"""Where each rank of a launched world runs: its core, its host, its network."""

from __future__ import annotations

from dataclasses import dataclass

from .. import limits
from ..errors import ConfigError
from . import interfaces
from .namespaces import INTERFACE, HostNamespace, Network
from .spec import HOSTS, WorldSpec


@dataclass(frozen=True)
class Placement:
    """Where one rank runs. `namespace` None: on its parent's host and network; `core` None: on any core."""

    rank: int
    core: int | None
    usable_cores: tuple[int, ...]
    namespace: HostNamespace | None
    interface: str
    ip_address: str


def place_ranks(spec: WorldSpec, network: Network | None) -> list[Placement]:
    """A place for each rank: neighbours share a host, rank r gets the r-th usable core.

    Raises ConfigError for what this machine cannot give: cores, the network interface.
    """
    usable_cores = tuple(limits.usable_cores())
    cores = choose_cores(spec, usable_cores)
    if network is None:
        interface, ip_address = interfaces.choose(spec.network)
        return [
            Placement(rank, cores[rank], usable_cores, None, interface, ip_address)
            for rank in range(spec.num_ranks)
        ]
    namespaces = [network.hosts[spec.host_index(rank)] for rank in range(spec.num_ranks)]
    return [
        Placement(rank, cores[rank], usable_cores, namespace, INTERFACE, namespace.ip_address)
        for rank, namespace in enumerate(namespaces)
    ]


def choose_cores(spec: WorldSpec, usable_cores: tuple[int, ...]) -> list[int | None]:
    """A core for each rank: the r-th usable one where there are enough, else None.

    Raises ConfigError where pinning was asked for and there are too few.
    """
    enough = spec.num_ranks <= len(usable_cores)
    if spec.pin and not enough:
        raise ConfigError(
            f"cannot pin {spec.num_ranks} ranks to a core each: {len(usable_cores)} are usable; use --no-pin"
        )
    if spec.pin is False or not enough:
        return [None] * spec.num_ranks
    return list(usable_cores[: spec.num_ranks])


def check_network(spec: WorldSpec) -> None:
    """Raise ConfigError where an interface is named that launched hosts could not use."""
    if spec.kind == HOSTS and spec.network is not None:
        raise ConfigError(
            f"network {spec.network!r}: the hosts of a launched 'hosts' world are joined by a network of"
            " their own; other machines join through torchrun"
        )
