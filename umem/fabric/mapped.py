"""The fabric of mapped memory: bytes move by loads and stores, words by the processor's atomics."""

from __future__ import annotations

from typing import Any

from ..errors import AlignmentError
from ..kernels.build.compile import cpu_kernel
from ..kernels.data.copy import cpu_copy, default_stream_bytes
from ..kernels.intrinsics.scalar import (
    compare_swap_u32,
    compare_swap_u64,
    exchange_u32,
    exchange_u64,
    fetch_add_u32,
    fetch_add_u64,
)

_word = {4: "uint32", 8: "uint64"}


def _fetch_add_u32(address, value):
    return fetch_add_u32(address, 0, value)


def _fetch_add_u64(address, value):
    return fetch_add_u64(address, 0, value)


def _exchange_u32(address, value):
    return exchange_u32(address, 0, value)


def _exchange_u64(address, value):
    return exchange_u64(address, 0, value)


def _compare_swap_u32(address, expected, desired):
    return compare_swap_u32(address, 0, expected, desired)


def _compare_swap_u64(address, expected, desired):
    return compare_swap_u64(address, 0, expected, desired)


def _by_width(narrow: Any, wide: Any, num_operands: int) -> dict[int, Any]:
    return {
        num_bytes: cpu_kernel(f"{word}(int64{f', {word}' * num_operands})")(body)
        for (num_bytes, word), body in zip(_word.items(), (narrow, wide), strict=True)
    }


_FETCH_ADD = _by_width(_fetch_add_u32, _fetch_add_u64, 1)
_EXCHANGE = _by_width(_exchange_u32, _exchange_u64, 1)
_COMPARE_SWAP = _by_width(_compare_swap_u32, _compare_swap_u64, 2)


class MappedFabric:
    """Fabric over mapped memory; a home's death does not end it, the memory outlives its process."""

    name = "load_store"

    def __init__(self) -> None:
        self._stream_bytes = default_stream_bytes()

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src` to `address`."""
        cpu_copy(address, src, num_bytes, self._stream_bytes)

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address` to the pointer `dst`."""
        cpu_copy(dst, address, num_bytes, self._stream_bytes)

    def fetch_add(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Add `value` to the word at `address`; returns what stood there."""
        return int(_kernel(_FETCH_ADD, address, num_bytes)(address, value))

    def exchange(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Put `value` into the word at `address`; returns what stood there."""
        return int(_kernel(_EXCHANGE, address, num_bytes)(address, value))

    def compare_swap(self, rank: int, address: int, expected: int, desired: int, num_bytes: int) -> int:
        """Put `desired` into the word at `address` if `expected` stands there; returns what stood there."""
        return int(_kernel(_COMPARE_SWAP, address, num_bytes)(address, expected, desired))


def _kernel(kernels: dict[int, Any], address: int, num_bytes: int) -> Any:
    if num_bytes not in kernels or address % num_bytes:
        raise AlignmentError(address, num_bytes, "words of atomics are 4 or 8 bytes, naturally aligned")
    return kernels[num_bytes]
