"""The interface of a device: create memory, hand it to another process, give it an address.

Memory travels between processes as a file descriptor on every device: a memfd on the host, an exported
handle of CUDA's virtual memory management on a GPU. The descriptor alone keeps the memory alive; each
mapping keeps it alive too. The caller of `create` closes the descriptor.

A range goes through these states, and every call names the state it needs:

    (free) --reserve--> reserved --map--> mapped --unmap_to_reserved--> reserved --release_range--> (free)

An address is umem's number, the same in every rank; a pointer is the number that this process dereferences. They
are equal on the host. On CUDA the range may have to stand elsewhere, so callers always translate.
"""

from __future__ import annotations

from typing import Protocol


class Device(Protocol):
    """The interface of a kind of memory. Sizes and addresses are bytes, multiples of `granularity`.

    A module of functions fulfils it as well as a class does: the host has no state to carry.
    """

    @property
    def NAME(self) -> str:
        """Short name for tables: "host", "cuda:0"."""

    @property
    def granularity(self) -> int:
        """Every size and address is a multiple of this many bytes."""

    @property
    def maps_at_offset(self) -> bool:
        """Whether `map` takes an offset above 0; where not, each striped block needs its own `create`."""

    def reserve(self, address: int, num_bytes: int, /) -> int:
        """Set aside addresses without memory behind them, and return the pointer to their start.

        Raises WorldError where the range is taken and this device cannot move it.
        """

    def create(self, num_bytes: int, name: str, /) -> int:
        """New memory, zeroed, as a descriptor to share; raises SegmentTooLarge where nothing can back it."""

    def map(self, fd: int, address: int, num_bytes: int, offset: int = 0, /) -> None:
        """Put [offset, offset + num_bytes) of `fd` at `address` in a reserved range, to read and write."""

    def unmap_to_reserved(self, address: int, num_bytes: int, /) -> None:
        """Take the memory away and keep the addresses: a stray access faults, it never meets other memory."""

    def release_range(self, address: int, num_bytes: int, /) -> None:
        """Give a reserved range back, with all that is still mapped in it."""

    def pointer(self, address: int, /) -> int:
        """This process's pointer to `address`; raises AddressError outside reserved ranges."""

    def address(self, pointer: int, /) -> int:
        """The inverse of `pointer`."""


class GpuDevice(Device, Protocol):
    """A device with processors of its own: umem's kernels run there, and no CPU loads or stores its memory."""

    def adopt(self, pointer: int, num_bytes: int, /) -> bool:
        """Let kernels here load and store mapped host memory, at the same address; False where the device cannot."""

    def close(self) -> None:
        """Give back all ranges and all that was adopted."""
