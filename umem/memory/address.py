"""One address range for a world: which rank is home to an address, and where its bytes are.

Three windows stand in a row from BASE, reserved in every process:

    META     rank r's metadata segment            meta_base + (r << meta_stride_log2)
    LINEAR   slot = 2 * rank + kind               linear_base + (slot << stride_log2)
    STRIPED  blocks of the members' segments in turn, so that an interleaved array is contiguous

A byte has one address: of each member's device segment the first `linear_bytes` appear only in
LINEAR and the `striped_bytes` after them only in STRIPED. The home itself also maps its striped part
in one piece behind the windows (`home_view`): transports register and address memory in pieces, and
a part in thousands of blocks would need as many registrations. That view never leaves the home's
transport; it is not an address that users see.

The same arithmetic, for compiled code, stands in kernels/page/control.py; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ..errors import AddressError, AddressSpaceFull, ConfigError
from ..kernels.page.control import BASE
from ..units import TIB, align_up, format_size, power_of_two_at_least

SPACE_BYTES = 48 * TIB
BLOCK_LOG2 = 21  # 2 MiB, a huge page, and the heap's block
MAX_MAPPINGS = 8192  # striped mappings a process is asked for; the kernel's default limit is 65,530


class Kind(IntEnum):
    """Which of a rank's two segments."""

    DEVICE = 0
    HOST = 1


class Place(NamedTuple):
    """Where an address lives: `offset` bytes into the `kind` segment of `rank`."""

    rank: int
    kind: Kind
    offset: int


@dataclass(frozen=True)
class AddressMap:
    """The windows of a world, fixed when it is made. Sizes in bytes, one value for all ranks."""

    num_ranks: int
    max_ranks: int  # slots reserved, for late joiners
    linear_bytes: int  # of a device segment, in LINEAR
    striped_bytes: int  # of a device segment, in STRIPED
    host_bytes: int
    meta_bytes: int
    stride: int
    meta_stride: int
    block_bytes: int
    members: tuple[int, ...]  # ranks in the striped window, in order
    gpu_ranks: tuple[int, ...] = ()  # ranks whose device segment is a GPU's memory, in order

    @staticmethod
    def plan(
        num_ranks: int,
        device_bytes: int,
        host_bytes: int,
        meta_bytes: int,
        striped_fraction: float = 0.5,
        max_ranks: int | None = None,
        gpu_ranks: tuple[int, ...] = (),
    ) -> AddressMap:
        """Lay out a world whose ranks each contribute `device_bytes` and `host_bytes`.

        Every stride is a power of two with room to grow. Raises AddressSpaceFull where the windows
        do not fit into SPACE_BYTES, ConfigError for a fraction outside [0, 1].
        """
        if not 0 <= striped_fraction <= 1:
            raise ConfigError(f"striped fraction {striped_fraction} is not between 0 and 1")
        max_ranks = max_ranks or power_of_two_at_least(2 * num_ranks)
        block = 1 << BLOCK_LOG2
        while num_ranks * int(device_bytes * striped_fraction) // block > MAX_MAPPINGS:
            block *= 2
        striped = int(device_bytes * striped_fraction) // block * block
        linear = align_up(device_bytes - striped, 1 << BLOCK_LOG2)
        stride = power_of_two_at_least(2 * max(linear, host_bytes, 1 << BLOCK_LOG2))
        meta_stride = power_of_two_at_least(max(meta_bytes, 1 << BLOCK_LOG2))
        plan = AddressMap(
            num_ranks=num_ranks,
            max_ranks=max_ranks,
            linear_bytes=linear,
            striped_bytes=striped,
            host_bytes=align_up(host_bytes, 1 << BLOCK_LOG2),
            meta_bytes=align_up(meta_bytes, 1 << BLOCK_LOG2),
            stride=stride,
            meta_stride=meta_stride,
            block_bytes=block,
            members=tuple(range(num_ranks)) if striped else (),
            gpu_ranks=gpu_ranks,
        )
        if plan.end - BASE > SPACE_BYTES:
            raise AddressSpaceFull(
                f"{max_ranks} ranks with segments of {format_size(device_bytes)} need"
                f" {format_size(plan.end - BASE)} of addresses, and {format_size(SPACE_BYTES)} are reserved;"
                " use smaller segments or fewer ranks"
            )
        return plan

    @property
    def device_bytes(self) -> int:
        """Bytes of one device segment."""
        return self.linear_bytes + self.striped_bytes

    @property
    def linear_base(self) -> int:
        """First address of the linear window."""
        return align_up(BASE + self.max_ranks * self.meta_stride, 1 << 30)

    @property
    def striped_base(self) -> int:
        """First address of the striped window."""
        return self.linear_base + 2 * self.max_ranks * self.stride

    @property
    def striped_end(self) -> int:
        """First address after the striped window."""
        return self.striped_base + len(self.members) * self.striped_bytes

    def device_pieces(self, rank: int) -> list[tuple[int, int, int]]:
        """(address, bytes, offset) of each piece of a rank's device segment: the linear part, the striped blocks."""
        pieces = []
        if self.linear_bytes:
            pieces.append((self.slot_address(rank, Kind.DEVICE), self.linear_bytes, 0))
        if rank in self.members:
            column, step = self.members.index(rank), len(self.members) * self.block_bytes
            for row in range(self.striped_bytes // self.block_bytes):
                address = self.striped_base + row * step + column * self.block_bytes
                pieces.append((address, self.block_bytes, self.linear_bytes + row * self.block_bytes))
        return pieces

    def is_gpu(self, rank: int, kind: int) -> bool:
        """Whether the `kind` segment of `rank` is memory of a GPU."""
        return kind == Kind.DEVICE and rank in self.gpu_ranks

    @property
    def gpu_ranges(self) -> list[tuple[int, int]]:
        """(address, bytes) of all that is memory of GPUs, in as few ranges as there are, in order."""
        pieces = sorted(piece[:2] for rank in self.gpu_ranks for piece in self.device_pieces(rank))
        ranges: list[tuple[int, int]] = []
        for address, num_bytes in pieces:
            if ranges and sum(ranges[-1]) == address:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + num_bytes)
            else:
                ranges.append((address, num_bytes))
        return ranges

    def home_view(self, rank: int) -> int:
        """Where `rank`, and it alone, maps its own striped part in one piece."""
        return align_up(self.striped_end, 1 << 30) + rank * self.striped_bytes

    @property
    def end(self) -> int:
        """First address after everything that is reserved."""
        return align_up(self.home_view(self.num_ranks), 1 << 30)

    def meta_address(self, rank: int) -> int:
        """Address of the metadata segment of `rank`; its control page stands at the start."""
        return BASE + rank * self.meta_stride

    def slot_address(self, rank: int, kind: Kind) -> int:
        """First address of a rank's linear slot."""
        return self.linear_base + (2 * rank + kind) * self.stride

    def slot_bytes(self, kind: Kind) -> int:
        """Bytes that a slot of this kind has mapped."""
        return self.linear_bytes if kind is Kind.DEVICE else self.host_bytes

    def holds(self, address: int) -> bool:
        """Whether `address` lies in the range that is reserved for the world."""
        return BASE <= address < self.end

    def place(self, address: int) -> Place:
        """Where `address` lives. Raises AddressError where no segment has it."""
        if self.linear_base <= address < self.striped_base:
            slot, offset = divmod(address - self.linear_base, self.stride)
            rank, kind = slot >> 1, Kind(slot & 1)
            if rank < self.num_ranks and offset < self.slot_bytes(kind):
                return Place(rank, kind, offset)
        elif self.striped_base <= address < self.striped_end:
            block, inside = divmod(address - self.striped_base, self.block_bytes)
            row, column = divmod(block, len(self.members))
            offset = self.linear_bytes + row * self.block_bytes + inside
            return Place(self.members[column], Kind.DEVICE, offset)
        raise AddressError(f"address {address:#x} lies in no segment of this world")

    def home(self, address: int) -> int:
        """Rank in whose segment `address` lives. Raises AddressError where no segment has it."""
        return self.place(address).rank

    def address(self, place: Place) -> int:
        """The one address of a place: the inverse of `place`."""
        if place.kind is Kind.HOST or place.offset < self.linear_bytes:
            return self.slot_address(place.rank, place.kind) + place.offset
        row, inside = divmod(place.offset - self.linear_bytes, self.block_bytes)
        block = row * len(self.members) + self.members.index(place.rank)
        return self.striped_base + block * self.block_bytes + inside

    def contiguous_bytes(self, address: int) -> int:
        """Bytes from `address` to the end of the contiguous range at its home."""
        place = self.place(address)
        if address < self.striped_base:
            return self.slot_bytes(place.kind) - place.offset
        return self.block_bytes - (address - self.striped_base) % self.block_bytes

    def pieces(self, address: int, num_bytes: int) -> list[tuple[int, int]]:
        """Split [address, address + num_bytes) into (address, bytes) that each have one home.

        Raises AddressError where the range leaves the segments.
        """
        pieces = []
        while num_bytes > 0:
            piece = min(num_bytes, self.contiguous_bytes(address))
            pieces.append((address, piece))
            address, num_bytes = address + piece, num_bytes - piece
        return pieces
