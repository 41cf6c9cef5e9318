"""The segments of a world, mapped: each rank's memory at the same address in every process that may see it.

A rank contributes three segments: device and host memory, and metadata (its control page and the
heap's records, out of band so that they also serve memory a CPU cannot touch). They travel as file
descriptors between ranks that may map each other; nothing has a name that a crash could leave behind.

The device segment of a GPU rank is memory of its GPU, which no CPU maps: ranks with a GPU map it for that, and
let it adopt what host memory they map. What came of it stands in `reach`.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from .. import limits
from ..errors import DeviceError, NotMappable, SegmentTooLarge
from ..kernels.page.control import CONTROL_BYTES, KIND_DEVICE, KIND_HOST, KIND_META
from ..units import GIB, MIB, format_size
from .address import BASE, AddressMap, Kind
from .device import GpuDevice, host
from .reach import Reach

MAX_DESCRIPTORS = 200  # in one message; the kernel's limit is 253


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


def check_fits(num_local_ranks: int, num_bytes: int) -> None:
    """Raise SegmentTooLarge where this machine cannot back `num_bytes` of host memory, its ranks' segments."""
    total = limits.total_memory_bytes()
    if num_bytes > total:
        fitting = format_size(total // (4 * num_local_ranks) // MIB * MIB)
        raise SegmentTooLarge(
            f"the segments of {num_local_ranks} ranks need {format_size(num_bytes)} of host memory, and this"
            f" machine has {format_size(total)}; use --segment {fitting} or less"
        )


class Segments:
    """All segments that this rank can reach by address, its own and its peers'.

    Collective to create: every rank of the world, with the same map. `gpu` is the device whose memory this rank's
    device segment is, None where it stands in host memory too. With `prefault` each rank backs all of its own host
    memory at once, with `huge_pages` it asks for huge pages behind it. `close` unmaps everything.
    """

    def __init__(
        self,
        world: Exchange,
        plan: AddressMap,
        gpu: GpuDevice | None = None,
        prefault: bool = False,
        huge_pages: bool = False,
    ):
        assert (gpu is not None) == (world.rank in plan.gpu_ranks), plan.gpu_ranks
        self.world, self.map, self.gpu = world, plan, gpu
        self.reach = Reach(plan.num_ranks)
        self.mapped_ranks: frozenset[int] = frozenset()
        self._fds: list[int] = []
        self._host_ranges = [(BASE, plan.end - BASE)]
        host.reserve(*self._host_ranges[0])
        try:
            if gpu is not None:
                self._reserve_for(gpu)
            self._create()
            self._map_rank(world.rank, self._fds)
            self._map_home_view()
            if gpu is not None:  # its kernels read who is where
                gpu.adopt(self.control, CONTROL_BYTES)
            for address, num_bytes in self.regions:
                if huge_pages:
                    host.advise_huge(address, num_bytes)
                if prefault:
                    host.prefault(address, num_bytes)
        except BaseException:
            self.close()
            raise

    def connect(self) -> None:
        """Map the segments of every rank that this one may map. Collective; own metadata must be initialised."""
        most = max(self._num_descriptors(rank) for rank in range(self.map.num_ranks))
        received: dict[int, list[int]] = {}
        for first in range(0, most, MAX_DESCRIPTORS):  # what one message carries
            some = self._fds[first : first + MAX_DESCRIPTORS]
            for rank, fds in self.world.share_fds(f"segments {first}", some).items():
                received.setdefault(rank, []).extend(fds)
        for rank, fds in received.items():
            if rank != self.world.rank:
                self._map_rank(rank, fds)
                _close(fds)
        if self.gpu is not None:  # its mappings keep that memory
            _close(self._fds[2:])
            del self._fds[2:]
        self.mapped_ranks = self.reach.sharing_ranks

    @property
    def control(self) -> int:
        """Address of this rank's own control page."""
        return self.map.meta_address(self.world.rank)

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(address, bytes) of this rank's host memory in pieces that a transport registers: see `remote_address`."""
        rank = self.world.rank
        pieces = [(self.map.slot_address(rank, Kind.HOST), self.map.host_bytes)]
        if self.gpu is None:
            linear = (self.map.slot_address(rank, Kind.DEVICE), self.map.linear_bytes)
            pieces = [linear, (self.map.home_view(rank), self.map.striped_bytes), *pieces]
        return [(address, num_bytes) for address, num_bytes in pieces if num_bytes]

    def remote_address(self, address: int) -> int:
        """The address by which the home's transport knows `address`: striped blocks of host memory through the home's
        own view."""
        if address < self.map.striped_base:
            return address
        place = self.map.place(address)
        if place.rank in self.map.gpu_ranks:
            return address
        return self.map.home_view(place.rank) + place.offset - self.map.linear_bytes

    def pointer(self, address: int) -> int:
        """What this process dereferences for `address`: its CPU for host memory, its GPU for that of GPUs.

        Raises AddressError outside all segments, NotMappable for memory of a GPU where this rank has none.
        """
        place = self.map.place(address)
        if place.kind is Kind.HOST or place.rank not in self.map.gpu_ranks:
            return address
        if self.gpu is None:
            raise NotMappable(
                f"address {address:#x} lies in the memory of rank {place.rank}'s GPU, and this rank has none to"
                " dereference it; use read/write, get/put or the scalar accesses"
            )
        return self.gpu.pointer(address)

    def address(self, pointer: int) -> int:
        """The inverse of `pointer`. Raises AddressError for what lies in no segment."""
        found = pointer
        if self.gpu is not None and not self.map.holds(pointer):
            found = self.gpu.address(pointer)
        self.map.place(found)
        return found

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """The bytes [address, address + num_bytes) as a writable uint8 array. The CPU must reach them."""
        return host.view(address, num_bytes)

    def close(self) -> None:
        """Unmap everything and close the descriptors. No view may be used afterwards."""
        _close(self._fds)
        self._fds = []
        if self.gpu is not None:
            self.gpu.close()
        for address, num_bytes in self._host_ranges:
            host.release_range(address, num_bytes)

    # --- helpers

    def _reserve_for(self, gpu: GpuDevice) -> None:
        """Reserve addresses for the memory of GPUs: where they stand in the map if the driver agrees to all of them,
        else in one range elsewhere, at one distance."""
        ranges = self.map.gpu_ranges
        for address, num_bytes in ranges:
            host.release_range(address, num_bytes)
        kept, start = [], BASE
        for address, num_bytes in [*ranges, (self.map.end, 0)]:
            if address > start:
                kept.append((start, address - start))
            start = address + num_bytes
        self._host_ranges = kept
        for number, (address, num_bytes) in enumerate(ranges):
            if gpu.reserve(address, num_bytes) != address:
                for before in ranges[: number + 1]:
                    gpu.release_range(*before)
                for hole in ranges:
                    host.reserve(*hole)
                self._host_ranges = [(BASE, self.map.end - BASE)]
                gpu.reserve(BASE, self.map.end - BASE)
                return

    def _create(self) -> None:
        plan, rank = self.map, self.world.rank
        self._fds.append(host.create(plan.meta_bytes, f"umem-meta-{rank}"))
        self._fds.append(host.create(max(plan.host_bytes, host.granularity), segment_name(rank, Kind.HOST)))
        name = segment_name(rank, Kind.DEVICE)
        if self.gpu is None:
            self._fds.append(host.create(plan.device_bytes, name))
            return
        for _, num_bytes, _ in plan.device_pieces(rank):
            self._fds.append(self.gpu.create(num_bytes, name))

    def _num_descriptors(self, rank: int) -> int:
        on_gpu = rank in self.map.gpu_ranks
        return 2 + (len(self.map.device_pieces(rank)) if on_gpu else 1)

    def _map_rank(self, rank: int, fds: list[int]) -> None:
        plan = self.map
        meta, host_segment, *own = fds
        host.map(meta, plan.meta_address(rank), plan.meta_bytes, 0)
        self.reach.add(rank, KIND_META)
        if plan.host_bytes:
            host.map(host_segment, plan.slot_address(rank, Kind.HOST), plan.host_bytes, 0)
        self._reached(rank, KIND_HOST, [(plan.slot_address(rank, Kind.HOST), plan.host_bytes)])
        pieces = plan.device_pieces(rank)
        if rank not in plan.gpu_ranks:
            for address, num_bytes, offset in pieces:
                host.map(own[0], address, num_bytes, offset)
            self._reached(rank, KIND_DEVICE, [piece[:2] for piece in pieces])
        elif self.gpu is not None and self._map_gpu(own, pieces, is_own=rank == self.world.rank):
            self.reach.add(rank, KIND_DEVICE, by_gpu=True)

    def _map_gpu(self, fds: list[int], pieces: list[tuple[int, int, int]], is_own: bool) -> bool:
        """Map a GPU's memory for this rank's own; False where that cannot reach it."""
        assert self.gpu is not None
        done = []
        try:
            for fd, (address, num_bytes, _) in zip(fds, pieces, strict=True):
                self.gpu.map(fd, address, num_bytes)
                done.append((address, num_bytes))
        except DeviceError:
            if is_own:
                raise
            for address, num_bytes in done:
                self.gpu.unmap_to_reserved(address, num_bytes)
            return False
        return True

    def _reached(self, rank: int, kind: int, pieces: list[tuple[int, int]]) -> None:
        """Host memory of `rank` is mapped: its own CPU reaches it, and the GPU of this rank where it can adopt it."""
        self.reach.add(rank, kind)
        if self.gpu is not None and all(self.gpu.adopt(*piece) for piece in pieces if piece[1]):
            self.reach.add(rank, kind, by_gpu=True)

    def _map_home_view(self) -> None:
        if self.map.striped_bytes and self.gpu is None:
            target = self.map.home_view(self.world.rank)
            host.map(self._fds[2], target, self.map.striped_bytes, self.map.linear_bytes)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
