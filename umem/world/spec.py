"""The description of a world, checked, and the meaning of each kind of world, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .. import config
from ..arguments import whole
from ..errors import ConfigError, UnknownName
from ..units import parse_size

MAX_RANKS = 512

MAPPED, NO_PEER_ACCESS, HOSTS = "mapped", "no-peer-access", "hosts"

KINDS = {
    MAPPED: "one host: every rank maps every segment",
    NO_PEER_ACCESS: "one host: no rank maps another's memory, UCX keeps its shared memory",
    HOSTS: "several hosts joined by a network",
}

CPU, GPU = "cpu", "cuda"
_DEVICE = re.compile(rf"{CPU}|{GPU}(:\d+)?")

END, CONTINUE = "end", "continue"
FAILURE_POLICIES = (END, CONTINUE)

LOOPBACK = "lo"

# posix alone among the shared-memory transports: `cma` makes an 8 B get 9 times slower (UCX 1.22). Where /dev/shm is
# too small for it, sysv takes its place (umem/fabric/ucx/queues.py).
TRANSPORTS = {MAPPED: "posix,self", NO_PEER_ACCESS: "posix,self", HOSTS: "tcp,self"}


@dataclass(frozen=True)
class WorldSpec:
    """The description of a world. Made by `WorldSpec.of`, which reads sizes and checks every value.

    Sizes are bytes per rank, None for the default that fits this machine. `pin` None pins each rank to a
    core of its own where there are enough. `network` None keeps all traffic on loopback. `timeout_s`
    bounds every wait. `on_failure`: whether the first failure ends the others ("end") or not ("continue").
    A rank keeps `line_cache_bytes` of copies of cached memory for each line size in use, in sets of
    `line_cache_ways`, by the coherence `protocol`: a name or a file. Rank r works on `devices[r % len(devices)]`:
    "cpu", "cuda:N", or "cuda" for the host's GPUs in turn.
    """

    num_ranks: int = 1
    kind: str = MAPPED
    num_hosts: int = 1
    segment_bytes: int | None = None
    host_segment_bytes: int | None = None
    striped_fraction: float = 0.5
    pin: bool | None = None
    network: str | None = None
    timeout_s: float = field(default_factory=config.timeout_s)
    huge_pages: bool = False
    prefault: bool = False
    line_cache_bytes: int | None = None
    line_cache_ways: int | None = None
    protocol: str = "msi"
    on_failure: str = END
    devices: tuple[str, ...] = (CPU,)

    def __post_init__(self) -> None:
        if not 1 <= self.num_ranks <= MAX_RANKS:
            raise ConfigError(f"{self.num_ranks} ranks: a world has 1 to {MAX_RANKS}")
        if self.kind not in KINDS:
            raise UnknownName("world", self.kind, tuple(KINDS))
        if self.kind != HOSTS and self.num_hosts != 1:
            raise ConfigError(f"world {self.kind!r} has one host, not {self.num_hosts}; use world 'hosts'")
        if not 1 <= self.num_hosts <= self.num_ranks:
            raise ConfigError(f"{self.num_hosts} hosts for {self.num_ranks} ranks: each needs at least one")
        for name in ("segment_bytes", "host_segment_bytes"):
            num_bytes = getattr(self, name)
            if num_bytes is not None and num_bytes < 0:
                raise ConfigError(f"{name}={num_bytes} is negative")
        if not 0.0 <= self.striped_fraction <= 1.0:
            raise ConfigError(f"striped_fraction={self.striped_fraction} is not between 0 and 1")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s={self.timeout_s} must be above 0")
        for device in self.devices:
            if not _DEVICE.fullmatch(device):
                raise UnknownName("device", device, (CPU, GPU, f"{GPU}:N"))
        if self.on_failure not in FAILURE_POLICIES:
            raise UnknownName("failure policy", self.on_failure, FAILURE_POLICIES)

    @classmethod
    def of(
        cls,
        ranks: int = 1,
        world: str = MAPPED,
        hosts: int | None = None,
        segment: int | str | None = None,
        host_segment: int | str | None = None,
        timeout_s: float | None = None,
        line_cache: int | str | None = None,
        protocol: str | None = None,
        device: str | None = None,
        **others: Any,
    ) -> WorldSpec:
        """A spec from arguments as users write them: sizes as "2G", unset values from the environment.

        `hosts` defaults to 2 in a `hosts` world (1 where there is one rank). `device` names one device or several,
        separated by commas, which ranks take in turn. Raises ConfigError or
        UnknownName with the value and what is allowed.
        """
        ranks, hosts = whole(ranks, "ranks"), None if hosts is None else whole(hosts, "hosts")
        if hosts is None:
            hosts = min(2, ranks) if world == HOSTS else 1
        return cls(
            num_ranks=ranks,
            kind=world,
            num_hosts=hosts,
            segment_bytes=config.size("UMEM_SEGMENT") if segment is None else parse_size(segment),
            host_segment_bytes=(
                config.size("UMEM_HOST_SEGMENT") if host_segment is None else parse_size(host_segment)
            ),
            timeout_s=config.timeout_s() if timeout_s is None else timeout_s,
            line_cache_bytes=config.size("UMEM_LINE_CACHE") if line_cache is None else parse_size(line_cache),
            protocol=protocol or config.text("UMEM_PROTOCOL", "msi") or "msi",
            devices=tuple((device or config.text("UMEM_DEVICE", CPU) or CPU).replace(" ", "").split(",")),
            **others,
        )

    def device_of(self, rank: int) -> str:
        """The device that `rank` works on, as its user has named it."""
        return self.devices[rank % len(self.devices)]

    def is_gpu_rank(self, rank: int) -> bool:
        """Whether the device segment of `rank` is memory of a GPU."""
        return self.device_of(rank) != CPU

    def host_index(self, rank: int) -> int:
        """The number of the host on which a launcher places `rank`: neighbours share a host."""
        return rank * self.num_hosts // self.num_ranks

    def placed(self, num_ranks: int, kind: str, num_hosts: int) -> WorldSpec:
        """This spec's memory and waits for a world whose shape another launcher decided."""
        return replace(self, num_ranks=num_ranks, kind=kind, num_hosts=num_hosts)


def ucx_environment(kind: str, interface: str) -> dict[str, str]:
    """UCX variables of a rank in a world of `kind` whose network traffic may use `interface`.

    UCX picks its transports by these alone: left to itself it finds shared memory between network
    namespaces, and a test of the network would test none.
    """
    return {
        "UCX_TLS": TRANSPORTS[kind],
        "UCX_NET_DEVICES": interface,
        "UCX_WARN_UNUSED_ENV_VARS": "n",
        "UCX_LOG_LEVEL": "error",
    }
