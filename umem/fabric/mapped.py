"""The fabric of mapped memory: bytes move by loads and stores."""

from __future__ import annotations

from typing import Any

from ..kernels.data.copy import cpu_copy, default_stream_bytes


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
