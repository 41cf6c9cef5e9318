"""Where the heap's memory stands: which arenas a world has, and their metadata in the ranks' segments.

    META of a rank:  control page | magazines | device arena | host arena | striped arena (first member only)

Tables are sparse: a metadata segment is large in addresses and small in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import BLOCK_BYTES, MAGAZINE_BYTES
from ..kernels.heap.setup import arena_bytes
from ..kernels.page.control import CONTROL_BYTES
from ..memory.address import AddressMap, Kind
from ..units import align_up

NUM_MAGAZINES = 128  # threads times arenas of a rank that go without the lock; more go through the core


class ArenaKind(IntEnum):
    """The kind of memory that an arena manages; the first two are address.Kind."""

    DEVICE = 0
    HOST = 1
    STRIPED = 2


@dataclass(frozen=True)
class Arena:
    """One arena: [base, base + num_bytes), its metadata at `metadata` in the META segment of `home`."""

    home: int
    kind: ArenaKind
    metadata: int
    base: int
    num_bytes: int

    @property
    def name(self) -> str:
        """As errors and reports call it."""
        return "striped" if self.kind is ArenaKind.STRIPED else f"rank {self.home} {self.kind.name.lower()}"


class HeapLayout:
    """All arenas of a world with the address map `plan`."""

    def __init__(self, plan: AddressMap):
        self.map = plan
        device, host = plan.linear_bytes, plan.host_bytes
        device_at = CONTROL_BYTES + NUM_MAGAZINES * MAGAZINE_BYTES
        host_at = device_at + arena_bytes(device, plan.num_ranks)
        striped_at = host_at + arena_bytes(host, plan.num_ranks)
        arenas = []
        for rank in range(plan.num_ranks):
            meta = plan.meta_address(rank)
            for kind, offset, size in ((Kind.DEVICE, device_at, device), (Kind.HOST, host_at, host)):
                base = plan.slot_address(rank, kind)
                arenas.append(Arena(rank, ArenaKind(kind), meta + offset, base, size))
        if plan.members:
            home, num_bytes = plan.members[0], plan.striped_end - plan.striped_base
            metadata = plan.meta_address(home) + striped_at
            arenas.append(Arena(home, ArenaKind.STRIPED, metadata, plan.striped_base, num_bytes))
        self.arenas = tuple(arena for arena in arenas if arena.num_bytes >= BLOCK_BYTES)

    @staticmethod
    def meta_bytes(num_ranks: int, device_bytes: int, host_bytes: int) -> int:
        """Bytes of a metadata segment after the control page, whatever part of the device is striped."""
        whole = align_up(num_ranks * device_bytes, BLOCK_BYTES) + BLOCK_BYTES
        tables = arena_bytes(whole, num_ranks) + arena_bytes(align_up(host_bytes, BLOCK_BYTES), num_ranks)
        headers = arena_bytes(0, num_ranks) + BLOCK_BYTES
        return NUM_MAGAZINES * MAGAZINE_BYTES + tables + headers

    def magazine(self, rank: int, index: int) -> int:
        """Address of magazine number `index` of `rank`."""
        return self.map.meta_address(rank) + CONTROL_BYTES + index * MAGAZINE_BYTES

    def initialise(self, rank: int) -> None:
        """Make the arenas whose metadata `rank` has, all free: before any other rank maps them."""
        for arena in self.arenas:
            if arena.home == rank:
                kernel.init(arena.metadata, arena.base, arena.num_bytes, self.map.num_ranks)
