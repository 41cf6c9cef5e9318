"""The options of a run, the points of a sweep, and the sides that take turns at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from umem.errors import ConfigError, UnknownName
from umem.units import parse_size
from umem.world.spec import KINDS, TRANSPORTS

from . import hardware
from .collective import ITEM_BYTES, REDUCTIONS
from .stats import Samples
from .wire import Part

SEMANTICS = ("load_store", "rma", "message", "staged", "near")
PEERS = ("ucx_perftest", "gloo", "mpi", "mpich", "impi", "ucxx")
WORLDS = tuple(KINDS)
NO_SEMANTICS = "none"  # of rows that move no bytes between ranks: limits, start-up
HOME_NONE = "none"  # of rows that use no rank's memory
STREAM_WINDOW = 16  # messages in flight of a stream, unless its point has the setting `window`


@dataclass(frozen=True)
class Options:
    """The options of `umem bench`."""

    ranks: int = 2
    begin_bytes: int = 8
    end_bytes: int = 64 << 20
    factor: int = 4
    warmup: int = 5
    iters: int = 200
    semantics: tuple[str, ...] = SEMANTICS
    peers: tuple[str, ...] = ()
    world: str = "mapped"
    seed: int = 1
    dtype: str = "float32"  # of collectives, as `op` and `in_place`: None is both
    op: str = "sum"
    in_place: bool | None = None

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("semantics", self.semantics, SEMANTICS),
            ("peer", self.peers, PEERS),
            ("world", (self.world,), WORLDS),
            ("dtype", (self.dtype,), tuple(ITEM_BYTES)),
            ("op", (self.op,), REDUCTIONS),
        ):
            for name in names:
                if name not in known:
                    raise UnknownName(kind, name, known)
        if self.ranks < 1:
            raise ConfigError(f"{self.ranks} ranks: at least 1 is needed")
        if self.factor < 2:
            raise ConfigError(f"a sweep by a factor of {self.factor} does not end; use 2 or more")
        if self.iters < 1 or self.warmup < 0:
            raise ConfigError(f"{self.iters} iterations after {self.warmup} to warm up: need 1 and 0 or more")
        if not 1 <= self.begin_bytes <= self.end_bytes:
            raise ConfigError(f"sizes from {self.begin_bytes} to {self.end_bytes} bytes: none lies between")

    @cached_property
    def transport(self) -> str:
        """The transport of messages between the ranks, as UCX calls it; of the kinds of shared memory one with room."""
        from umem.fabric.ucx import queues
        from umem.fabric.ucx.channels import num_channels

        transports = TRANSPORTS[self.world]
        first = transports.partition(",")[0]
        if first != queues.POSIX:
            return first
        return queues.choose(self.ranks, num_channels({"UCX_TLS": transports}, self.ranks))

    def sizes(self, least: int = 1, most: int = 1 << 62) -> list[int]:
        """Sizes of the sweep within [least, most], ascending; the nearest end where none is inside."""
        sizes = []
        size = self.begin_bytes
        while size <= self.end_bytes:
            sizes.append(size)
            size *= self.factor
        inside = [size for size in sizes if least <= size <= most]
        return inside or [min(max(self.begin_bytes, least), most)]


@dataclass(frozen=True)
class Point:
    """One point of a case's sweep: the bytes of one operation, and the case's other settings."""

    num_bytes: int
    settings: tuple[tuple[str, int | str], ...] = ()

    @staticmethod
    def parse(text: str) -> Point:
        """The point written as `1M` or `8 transport=tcp window=16`."""
        size, *pairs = text.split()
        settings = []
        for pair in pairs:
            name, _, value = pair.partition("=")
            settings.append((name, int(value) if value.isdigit() else value))
        return Point(parse_size(size), tuple(settings))

    def setting(self, name: str, default: int | str) -> int | str:
        """Value of the setting `name`, or `default`."""
        return dict(self.settings).get(name, default)

    @property
    def label(self) -> str:
        """The settings as `parse` reads them: `transport=tcp window=16`."""
        return " ".join(f"{name}={value}" for name, value in self.settings)


class Side(ABC):
    """One of the things that are compared at a point; runs when it is its turn and sleeps otherwise.

    `name` is unique at its point; bars.toml names sides by it. `peer` is None for umem itself. `detail`
    stands in the row's case where a side is one part of an operation: a step, a kind of limit. `cache` is
    the attribute of the memory that it uses. With fewer than `min_cores` it has no meaning: a side that polls
    without yielding its core keeps the process that it waits for from running.
    """

    detail = ""
    min_cores = 1
    cache = "none"
    warms_up = True  # False where a block warms up by itself

    def __init__(self, name: str, semantics: str, peer: str | None = None, transport: str = ""):
        self.name, self.semantics, self.peer, self.transport = name, semantics, peer, transport

    def open(self) -> None:  # noqa: B027  most sides need none
        """Make ready, outside all timing. Raises Waived or a typed error where it cannot run here."""

    @abstractmethod
    def block(self, num_samples: int) -> Samples:
        """Run one block: seconds per operation, `num_samples` of them or as many as the side gives."""

    def num_errors(self) -> int:
        """Wrong data found since the last call."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Release the resources of `open`."""


class PartSide(Side):
    """A side that runs as a method of a part, in every worker of the part's group.

    Every worker is called; the first that returns samples (not None) has the stop-watch. `needs_c`: the
    method calls hardware.c, so without a C compiler the side is waived.
    """

    def __init__(
        self,
        name: str,
        semantics: str,
        part: Part,
        method: str = "",
        *,
        peer: str | None = None,
        transport: str = "",
        detail: str = "",
        cache: str = "none",
        arguments: tuple[object, ...] = (),
        needs_c: bool = False,
    ):
        super().__init__(name, semantics, peer, transport)
        self.detail, self.cache, self._needs_c = detail, cache, needs_c
        self._part, self._method, self._arguments = part, method or name, arguments

    def open(self) -> None:
        if self._needs_c:
            hardware.load()
        self._part.open()

    def block(self, num_samples: int) -> Samples:
        return next(answer for answer in self.call(num_samples) if answer is not None)

    def call(self, num_samples: int) -> list[Samples | None]:
        """Run one block: every worker's answer."""
        return self._part.call(self._method, num_samples, *self._arguments)

    def num_errors(self) -> int:
        return sum(self._part.call("num_errors"))

    def close(self) -> None:
        self._part.close()


class SlowestRankSide(PartSide):
    """A side whose ranks all have a stop-watch: an operation has ended when the last of them has."""

    def block(self, num_samples: int) -> Samples:
        answers = [answer for answer in self.call(num_samples) if answer is not None]
        return np.asarray(np.max(np.stack(answers), axis=0))


@dataclass
class Measured:
    """The measurements of one point, by side: its blocks in the order they ran, and its errors."""

    point: Point
    blocks: dict[str, list[Samples]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
