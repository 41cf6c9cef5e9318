"""The segments of a world, mapped: each rank's memory at the same address in every process that may see it.

A rank contributes three segments: device and host memory, and metadata (its control page and the
heap's records, out of band so that they also serve memory a CPU cannot touch). They travel as file
descriptors between ranks that may map each other; nothing has a name that a crash could leave behind.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from .. import limits
from ..errors import SegmentTooLarge
from ..units import GIB, MIB, format_size
from .address import BASE, AddressMap, Kind
from .device import host as device


class Exchange(Protocol):
    """A world, as far as segments need one: which ranks may map which, and a way to pass descriptors."""

    rank: int
    num_ranks: int

    def may_map(self, rank: int) -> bool:
        """Whether this rank may map the segments of `rank`."""
        ...

    def share_fds(self, key: str, fds: list[int]) -> dict[int, list[int]]:
        """Pass `fds` to every rank that may map this one; returns theirs. Collective."""
        ...


def segment_name(rank: int, kind: Kind) -> str:
    """The name of a segment in /proc, by which a process that is no rank finds its descriptor."""
    return f"umem-{kind.name.lower()}-{rank}"


def default_device_bytes(num_local_ranks: int) -> int:
    """Device memory that a rank contributes by default: up to 4 GiB, together at most half of the free memory.

    Pages are backed only when touched, so an unused segment costs nothing.
    """
    share = limits.available_memory_bytes() // (2 * num_local_ranks)
    return max(64 * MIB, min(4 * GIB, share) // (64 * MIB) * (64 * MIB))


def check_fits(num_local_ranks: int, device_bytes: int, host_bytes: int) -> None:
    """Raise SegmentTooLarge where this machine cannot back the segments of its ranks."""
    wanted = num_local_ranks * (device_bytes + host_bytes)
    total = limits.total_memory_bytes()
    if wanted > total:
        raise SegmentTooLarge(
            f"{num_local_ranks} ranks with segments of {format_size(device_bytes)} device and"
            f" {format_size(host_bytes)} host memory need {format_size(wanted)}, and this machine has"
            f" {format_size(total)}; use --segment {format_size(total // (4 * num_local_ranks) // MIB * MIB)} or less"
        )


class Segments:
    """All segments that this rank can reach by address, its own and its peers'.

    Collective to create: every rank of the world, with the same map. With `prefault` each rank backs all of
    its own memory at once, with `huge_pages` it asks for huge pages behind it. `close` unmaps everything.
    """

    def __init__(self, world: Exchange, plan: AddressMap, prefault: bool = False, huge_pages: bool = False):
        self.world, self.map = world, plan
        self.mapped_ranks: frozenset[int] = frozenset()
        self._reserved_bytes = plan.end - BASE
        device.reserve(BASE, self._reserved_bytes)
        try:
            self._fds = [
                device.create(plan.meta_bytes, f"umem-meta-{world.rank}"),
                device.create(plan.device_bytes, segment_name(world.rank, Kind.DEVICE)),
                device.create(plan.host_bytes, segment_name(world.rank, Kind.HOST)),
            ]
            self._map_rank(world.rank, self._fds)
            self._map_home_view()
            for address, num_bytes in self.regions:
                if huge_pages:
                    device.advise_huge(address, num_bytes)
                if prefault:
                    device.prefault(address, num_bytes)
        except BaseException:
            device.release_range(BASE, self._reserved_bytes)
            raise

    def connect(self) -> None:
        """Map the segments of every rank that this one may map. Collective; own metadata must be initialised."""
        received = self.world.share_fds("segments", self._fds)
        for rank, fds in received.items():
            if rank != self.world.rank:
                self._map_rank(rank, fds)
                for fd in fds:
                    os.close(fd)
        self.mapped_ranks = frozenset(received) | {self.world.rank}

    @property
    def control(self) -> int:
        """Address of this rank's own control page."""
        return self.map.meta_address(self.world.rank)

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(address, bytes) of this rank's memory in pieces that a transport registers: see `remote_address`."""
        rank = self.world.rank
        pieces = [
            (self.map.slot_address(rank, Kind.DEVICE), self.map.linear_bytes),
            (self.map.home_view(rank), self.map.striped_bytes),
            (self.map.slot_address(rank, Kind.HOST), self.map.host_bytes),
        ]
        return [(address, num_bytes) for address, num_bytes in pieces if num_bytes]

    def remote_address(self, address: int) -> int:
        """The address by which the home's transport knows `address`: striped blocks through the home's own view."""
        if address < self.map.striped_base:
            return address
        place = self.map.place(address)
        return self.map.home_view(place.rank) + place.offset - self.map.linear_bytes

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """The bytes [address, address + num_bytes) as a writable uint8 array. They must be mapped."""
        return device.view(address, num_bytes)

    def close(self) -> None:
        """Unmap everything and close the descriptors. No view may be used afterwards."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        device.release_range(BASE, self._reserved_bytes)

    def _map_rank(self, rank: int, fds: list[int]) -> None:
        plan = self.map
        meta, own, host = fds
        device.map(meta, plan.meta_address(rank), plan.meta_bytes, 0)
        if plan.linear_bytes:
            device.map(own, plan.slot_address(rank, Kind.DEVICE), plan.linear_bytes, 0)
        if plan.host_bytes:
            device.map(host, plan.slot_address(rank, Kind.HOST), plan.host_bytes, 0)
        if rank in plan.members:
            column, step = plan.members.index(rank), len(plan.members) * plan.block_bytes
            for row in range(plan.striped_bytes // plan.block_bytes):
                target = plan.striped_base + row * step + column * plan.block_bytes
                device.map(own, target, plan.block_bytes, plan.linear_bytes + row * plan.block_bytes)

    def _map_home_view(self) -> None:
        if self.map.striped_bytes:
            target = self.map.home_view(self.world.rank)
            device.map(self._fds[1], target, self.map.striped_bytes, self.map.linear_bytes)
