"""RemoteFabric: memory of homes that this rank does not map, by the faster of two ways.

What is small asks the home's agent: one message there, one back, where UCX's own put, get and atomics
over shared memory and tcp are messages to the same thread with a flush after them. What is large goes by
UCX, which keeps more of a long transfer in flight. Measured at a sleeping home, 8 B get: 46 us against
79 (posix), 86 against 121 (tcp); put 48 against 77, 93 against 170. They meet at 64 KiB (posix).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...kernels.page import operations
from ...kernels.page.gate import MAX_ASKED_BYTES
from ..layout import Operation
from .client import Client
from .messages import Request

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric


UNSIGNED = {4: (1 << 32) - 1, 8: (1 << 64) - 1}


class RemoteFabric:
    """A Fabric (see fabric/base.py) over an agent's client and UCX."""

    name = "remote"

    def __init__(self, client: Client, ucx: UcxFabric | None):
        self._client, self._value, self._ucx = client, client.value, ucx
        self.serve_gate, self.finish_gate = client.serve_gate, client.finish_gate

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src`, in memory of `keep`, to `address` at `rank`."""
        if num_bytes <= MAX_ASKED_BYTES:
            self._value(rank, operations.WRITE, address, 0, 0, 0, src, num_bytes, 0, 0, keep)
        else:
            assert self._ucx is not None
            self._ucx.put(rank, address, src, num_bytes, keep)

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address` at `rank` to the pointer `dst`, in memory of `keep`."""
        if num_bytes <= MAX_ASKED_BYTES:
            self._value(rank, operations.READ, address, num_bytes, 0, 0, 0, 0, dst, num_bytes, keep)
        else:
            assert self._ucx is not None
            self._ucx.get(rank, address, dst, num_bytes, keep)

    def fetch_add(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Add `value` to the word of 4 or 8 bytes at `address`; returns the old value, unsigned."""
        old = self._value(rank, operations.FETCH_ADD, address, signed(value), num_bytes)
        return old & UNSIGNED[num_bytes]

    def exchange(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Put `value` into the word of 4 or 8 bytes at `address`; returns the old value, unsigned."""
        old = self._value(rank, operations.EXCHANGE, address, signed(value), num_bytes)
        return old & UNSIGNED[num_bytes]

    def compare_swap(self, rank: int, address: int, expected: int, desired: int, num_bytes: int) -> int:
        """Put `desired` into the word at `address` if it holds `expected`; returns the old value, unsigned."""
        words = address, signed(expected), signed(desired), num_bytes
        return self._value(rank, operations.COMPARE_SWAP, *words) & UNSIGNED[num_bytes]

    def traffic(self) -> list[dict[str, Any]]:
        """One dictionary a port of the requests that named an address, as Traffic.rows."""
        names = {Operation.READ: "get", Operation.WRITE: "put"}
        return [
            {
                "fabric": self.name,
                "rank": rank,
                "operation": names.get(operation, operation.name.lower()),
                "operations": num_requests,
                "bytes": num_bytes,
            }
            for rank, operation, num_requests, num_bytes in self._client.ports()
        ]


class GpuFabric(RemoteFabric):
    """RemoteFabric for memory of GPUs, which UCX does not know: what is large is asked for in pieces too."""

    def __init__(self, client: Client):
        super().__init__(client, None)

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        self._client.ask_all(
            Request(rank, operations.WRITE, (address + offset,), src + offset, size, keep=keep)
            for offset, size in _pieces(num_bytes)
        )

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        self._client.ask_all(
            Request(
                rank, operations.READ, (address + offset, size), dst=dst + offset, capacity=size, keep=keep
            )
            for offset, size in _pieces(num_bytes)
        )


def _pieces(num_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the parts of a transfer that are a message each."""
    return (
        (offset, min(MAX_ASKED_BYTES, num_bytes - offset)) for offset in range(0, num_bytes, MAX_ASKED_BYTES)
    )


def signed(word: int) -> int:
    """The int64 with the bits of `word`."""
    if -(1 << 63) <= word < 1 << 63:
        return word
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
