"""Bulk accesses by address: any number of bytes, to and from this rank's own buffers, or from address to address."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import whole
from ..errors import AddressError
from ..fabric.mapped import MappedFabric
from ..kernels import status
from ..kernels.page import gate, operations
from .dtypes import pointer_to
from .scalars import Scalars


class Bulk(Scalars):
    """The bulk accesses of a space: plain copies, which barriers, signals and scalar accesses order (see Space)."""

    mapped: MappedFabric
    _has_cached: ctypes.c_int64
    _is_partly_unmapped: bool
    _get: Callable[..., int]
    _put: Callable[..., int]

    if TYPE_CHECKING:

        def pointer(self, address: int) -> int:
            """Where `address` is mapped here."""

    def get(self, dst: np.ndarray, address: int) -> None:
        """Fill the contiguous array `dst` from `address`; complete on return."""
        pointer, address = pointer_to(dst, writable=True), whole(address, "address")
        if self._has_cached.value and self.cache.holds(address, dst.nbytes):
            self.cache.read(pointer, address, dst.nbytes)
            return
        if self._is_partly_unmapped:
            code = self._get(self._gate_pointer, address, pointer, dst.nbytes)
            if self._is_done(code, address, operations.READ, dst):
                return
        for offset, route in self.switch.routes(address, "get", dst.nbytes):
            route.fabric.get(route.rank, route.address, pointer + offset, route.num_bytes, keep=dst)

    def put(self, address: int, src: np.ndarray) -> None:
        """Copy the contiguous array `src` to `address`; complete at the home on return."""
        pointer, address = pointer_to(src, writable=False), whole(address, "address")
        if self._has_cached.value and self.cache.holds(address, src.nbytes):
            self.cache.write(address, pointer, src.nbytes)
            return
        if self._is_partly_unmapped:
            code = self._put(self._gate_pointer, address, pointer, src.nbytes)
            if self._is_done(code, address, operations.WRITE, src):
                return
        for offset, route in self.switch.routes(address, "put", src.nbytes):
            route.fabric.put(route.rank, route.address, pointer + offset, route.num_bytes, keep=src)

    def copy(self, dst: int, src: int, num_bytes: int) -> None:
        """Copy `num_bytes` from address `src` to address `dst`, which must not overlap; complete on return."""
        dst, src, num_bytes = whole(dst, "dst"), whole(src, "src"), whole(num_bytes, "num_bytes")
        if num_bytes < 0 or abs(dst - src) < num_bytes:
            raise AddressError(f"{num_bytes} bytes from {src:#x} to {dst:#x} overlap or are negative")
        if self._has_cached.value and (self.cache.holds(dst, num_bytes) or self.cache.holds(src, num_bytes)):
            bounce = np.empty(num_bytes, np.uint8)
            self.get(bounce, src)
            self.put(dst, bounce)
            return
        for start, size in self.segments.map.pieces(dst, num_bytes):
            source = src + start - dst
            for offset, route in self.switch.routes(source, "get", size):
                self._copy_piece(start + offset, source + offset, route.num_bytes)

    def _copy_piece(self, dst: int, src: int, num_bytes: int) -> None:
        source = self.switch.route(src, "get", num_bytes)
        target = self.switch.route(dst, "put", num_bytes)
        if source.fabric is self.mapped:
            target.fabric.put(target.rank, target.address, self.pointer(src), num_bytes)
        elif target.fabric is self.mapped:
            source.fabric.get(source.rank, source.address, self.pointer(dst), num_bytes)
        else:
            bounce = np.empty(min(num_bytes, 1 << 20), np.uint8)
            pointer, step = bounce.ctypes.data, bounce.nbytes
            for offset in range(0, num_bytes, step):
                size = min(step, num_bytes - offset)
                source.fabric.get(source.rank, source.address + offset, pointer, size, keep=bounce)
                target.fabric.put(target.rank, target.address + offset, pointer, size, keep=bounce)

    def _is_done(self, code: int, address: int, operation: int, keep: np.ndarray) -> bool:
        """Wait for a bulk access that compiled code has begun. False where it has not: fabrics must move the bytes."""
        if code == status.OK:
            return True
        if not gate.is_pending(code) or self._remote is None:
            return False
        home = self.segments.map.home(address)
        return self._remote.finish_gate(code, home, operation, keep) is not None
