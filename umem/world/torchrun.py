"""Worlds that another launcher started: torchrun, or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. Their ranks meet in torch's TCPStore, which is also where torch.distributed meets.

The store is not authenticated. Where umem opens it, it listens on MASTER_ADDR alone.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from .. import config
from ..errors import ConfigError, PortInUse, RankLost, WaitTimeout, WorldError
from . import launchers, liveness
from .waiting import Deadline, until

Answer = TypeVar("Answer")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A check costs 25 us at the store, so that a world of 100 ranks that wait loads it by 25 %.
_CHECK_INTERVAL_S = 0.01


@dataclass(frozen=True)
class Request:
    """The launcher's variables: rank, number of ranks, and the address of the store."""

    rank: int
    num_ranks: int
    address: str
    port: int


class Store(Protocol):
    """A torch.distributed store, as far as umem uses one."""

    def set(self, key: str, value: bytes, /) -> None:
        """Store a value."""

    def get(self, key: str, /) -> bytes:
        """The value; waits for it."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys are set."""


def is_requested() -> bool:
    """Whether RANK and WORLD_SIZE ask for a world of more than this process.

    Raises ConfigError where they ask for one rank and another launcher for more.
    """
    if config.text("RANK") is None:
        return False
    world_size = int(config.integer("WORLD_SIZE", 1) or 0)
    launchers.compare_with_torchrun(int(config.integer("RANK") or 0), world_size)
    return world_size != 1


def request_of(asked: launchers.Request) -> Request:
    """The request of mpirun or srun on several hosts, where ranks meet as torchrun's do.

    Raises ConfigError where MASTER_ADDR or MASTER_PORT is missing.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if config.text(name) is None]
    if missing:
        raise ConfigError(
            f"{asked.launcher} started {asked.num_ranks} ranks on several hosts, and {' and '.join(missing)} must say"
            " where rank 0 can be reached: mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 -x UMEM_NETWORK=IFACE ...;"
            " before srun, export them; HOST is the first of `scontrol show hostnames`"
        )
    return Request(asked.rank, asked.num_ranks, str(config.text("MASTER_ADDR")), _port())


def request() -> Request:
    """The launcher's variables. Raises ConfigError where one is missing or makes no sense."""
    missing = [name for name in _VARIABLES if config.text(name) is None]
    if missing:
        raise ConfigError(f"RANK is set and {', '.join(missing)} not: a launcher sets all of these")
    rank, num_ranks = int(config.integer("RANK") or 0), int(config.integer("WORLD_SIZE") or 0)
    if not 0 <= rank < num_ranks:
        raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={num_ranks}")
    return Request(rank, num_ranks, str(config.text("MASTER_ADDR")), _port())


def _port() -> int:
    port = int(config.integer("MASTER_PORT") or 0)
    if not 0 < port < 1 << 16:
        raise ConfigError(f"MASTER_PORT={port} is no TCP port")
    return port


def open_store(asked: Request, timeout_s: float) -> Store:
    """The store of this world: that of torch.distributed where it is initialised, else the launcher's, else
    one that rank 0 opens here.

    Raises PortInUse where another program listens on the port, WaitTimeout where no store answers on it,
    WorldError where torch is missing.
    """
    # The port is taken before torch is loaded, which takes seconds: a wrong port is an error at once.
    listener = None
    if asked.rank == 0 and config.text("TORCHELASTIC_USE_AGENT_STORE") != "True" and not _group_exists():
        listener = _listen(asked.address, asked.port)
    try:
        import torch.distributed as dist
    except ImportError:
        raise WorldError(
            "RANK and WORLD_SIZE are set, and the ranks of other launchers meet through torch, which is not"
            " installed: scripts/setup torch; or start with umem run"
        ) from None
    run, restart = config.text("TORCHELASTIC_RUN_ID", ""), config.text("TORCHELASTIC_RESTART_COUNT", "0")
    if _group_exists():
        store = dist.distributed_c10d._get_default_store()
    else:
        store = _connect(dist, asked, listener, timeout_s)
    return dist.PrefixStore(f"umem/{run}/{restart}", store)


class StoreRendezvous:
    """The rendezvous in a store. `pidfds` are those of the ranks on this machine, once they are known."""

    def __init__(self, store: Store, rank: int, num_ranks: int):
        self._store, self._rank, self._num_ranks = store, rank, num_ranks
        self.pidfds: Mapping[int, int] = {}

    def set(self, key: str, blob: bytes, timeout_s: float) -> None:
        """Store `blob` under `key`; a later value replaces an earlier one."""
        self._ask(self._store.set, key, blob)

    def get(self, key: str, timeout_s: float, source: int | None = None) -> bytes:
        """The blob under `key`, as soon as `source`, else some rank, has set it. Raises WaitTimeout, RankLost."""
        sources = () if source is None else (source,)

        def look() -> bytes | None:
            if self._ask(self._store.check, [key]):
                return self._ask(self._store.get, key)
            self._ended(sources, _CHECK_INTERVAL_S)
            return None

        def lost() -> RankLost | None:
            return next(
                (RankLost(s, f"it ended, and nobody set {key!r}") for s in self._ended(sources)), None
            )

        found = until(look, Deadline(timeout_s), lost)
        if found is None:
            raise WaitTimeout(f"nobody set {key!r} for {timeout_s:g} s")
        return found

    def gather(self, key: str, blob: bytes, timeout_s: float) -> list[bytes]:
        """Every rank's blob, by rank. Collective. Raises RankLost or WaitTimeout."""
        self._ask(self._store.set, f"{key}/{self._rank}", blob)
        missing = set(range(self._num_ranks))

        def look() -> list[bytes] | None:
            missing.difference_update(
                [rank for rank in missing if self._ask(self._store.check, [f"{key}/{rank}"])]
            )
            if not missing:
                return [self._ask(self._store.get, f"{key}/{rank}") for rank in range(self._num_ranks)]
            self._ended(missing, _CHECK_INTERVAL_S)
            return None

        def lost() -> RankLost | None:
            return next(
                (RankLost(r, f"it ended before exchange {key!r}") for r in self._ended(missing)), None
            )

        blobs = until(look, Deadline(timeout_s), lost)
        if blobs is None:
            ranks = ", ".join(map(str, sorted(missing)))
            raise WaitTimeout(f"exchange {key!r} waited {timeout_s:g} s for rank {ranks}")
        return blobs

    def departed(self) -> Mapping[int, str]:
        """Empty: a store sends nothing unasked; ranks that leave are noticed by the end of their processes."""
        return {}

    def close(self, error: str = "") -> None:
        """Nothing: the store belongs to the process, which may join again, and ends with it."""

    def _ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """An answer of the store. Raises WorldError for torch's RuntimeErrors: the store is gone."""
        try:
            return call(*arguments)
        except RuntimeError as error:
            raise WorldError(f"the store of this world is gone, or rank 0, which held it: {error}") from None

    def _ended(self, watched: Iterable[int], timeout_s: float = 0.0) -> list[int]:
        """Those of the `watched` ranks that have ended, now or within `timeout_s`, which passes if none has."""
        known = [(rank, self.pidfds[rank]) for rank in watched if rank in self.pidfds]
        return liveness.ended(known, timeout_s)


def _listen(address: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {address} is in use by another program; set MASTER_PORT to a free one"
            ) from None
        raise WorldError(f"rank 0 cannot listen on {address}, port {port} (MASTER_ADDR): {error}") from None


def _connect(dist: Any, asked: Request, listener: socket.socket | None, timeout_s: float) -> Store:
    options: dict[str, Any] = {}
    if listener is not None:
        # Shared in this process, so that torch.distributed may be initialised over it later.
        options = {"master_listen_fd": listener.detach(), "multi_tenant": True}
    try:
        return dist.TCPStore(
            asked.address,
            asked.port,
            asked.num_ranks,
            is_master=listener is not None,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            **options,
        )
    except dist.DistNetworkError:
        raise WaitTimeout(
            f"rank {asked.rank} reached nobody at MASTER_ADDR={asked.address} MASTER_PORT={asked.port}"
            f" within {timeout_s:g} s: does rank 0 run?"
        ) from None


def _group_exists() -> bool:
    """Whether this program has initialised torch.distributed."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()
