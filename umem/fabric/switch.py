"""The switch: the one place that turns an address into a fabric, a home and the fabric's own address of the bytes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ..errors import AddressError, NotMappable, WorldError
from ..memory.segment import Segments
from ..world.forks import MakeError
from .base import Fabric
from .traffic import Traffic


class Route(NamedTuple):
    """The route of an operation: `address` is the fabric's own address of the bytes at `rank`."""

    fabric: Fabric
    rank: int
    address: int
    num_bytes: int


class Switch:
    """Routes by home: loads and stores where this rank's CPU maps the memory, else `remote`; `remote_gpu` to GPUs'.

    `traffic` counts operations and bytes per port.
    """

    def __init__(
        self, segments: Segments, mapped: Fabric, remote: Fabric | None, remote_gpu: Fabric | None = None
    ):
        self.segments, self.mapped, self.remote, self.remote_gpu = segments, mapped, remote, remote_gpu
        self.traffic = Traffic()
        self.is_closed = False
        self.make_refusal: MakeError = partial(WorldError, "this space is closed")

    def close(self) -> None:
        """Refuse every route from now on: the memory behind it is going."""
        self.is_closed = True

    def check_open(self) -> None:
        """Raise WorldError after `close`."""
        if self.is_closed:
            raise self.make_refusal()

    def fabric_to(self, rank: int, kind: int) -> Fabric:
        """The fabric by which this rank reaches that segment of `rank`. Raises NotMappable where there is none."""
        if self.segments.reach.by_cpu(rank, kind):
            return self.mapped
        remote = self.remote_gpu if self.segments.map.is_gpu(rank, kind) else self.remote
        if remote is None:
            raise NotMappable(
                f"this rank's CPU does not map that memory of rank {rank}, on another host or of a GPU, and no"
                " transport is installed to ask for it; scripts/setup ucx installs one"
            )
        return remote

    def route(self, address: int, operation: str, num_bytes: int) -> Route:
        """Where `operation` on [address, address + num_bytes) goes; the range must have one home.

        Raises AddressError outside all segments or across a boundary between homes.
        """
        self.check_open()
        rank, kind, _ = self.segments.map.place(address)
        if num_bytes > self.segments.map.contiguous_bytes(address):
            raise AddressError(f"{num_bytes} bytes at {address:#x} leave the segment of rank {rank}")
        fabric = self.fabric_to(rank, kind)
        self.traffic.count(fabric.name, rank, operation, num_bytes)
        known_as = address if fabric is self.mapped else self.segments.remote_address(address)
        return Route(fabric, rank, known_as, num_bytes)

    def routes(self, address: int, operation: str, num_bytes: int) -> list[tuple[int, Route]]:
        """Split a range into (offset, route) pieces that each have one home."""
        pieces = self.segments.map.pieces(address, num_bytes)
        return [(start - address, self.route(start, operation, size)) for start, size in pieces]
