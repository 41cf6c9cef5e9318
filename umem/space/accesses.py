"""Accesses by address, whatever the memory is and wherever its home: of one element, and of any number of bytes.

A scalar access is one compiled call. Bulk accesses go to and from this rank's own buffers, or from address to address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..agent.asking.remote import RemoteFabric
from ..arguments import whole
from ..errors import AddressError, AlignmentError, HandlerError, UnknownName
from ..fabric.mapped import MappedFabric
from ..fabric.switch import Switch
from ..kernels import access, status
from ..kernels.page import gate, operations
from ..memory.segment import Segments
from .dtypes import READY, access_of, pointer_to, scalar_address, scalar_value

if TYPE_CHECKING:
    from ..lines.cache import LineCache

# Raised for arguments that compiled code does not take: they are converted and the call is repeated, or refused.
ARGUMENT_ERRORS = (TypeError, OverflowError)


class Accesses:
    """The part of a space that accesses memory by address; `Space` says what orders accesses and what they raise."""

    _gate: ctypes.Array[ctypes.c_int64]
    _gate_pointer: int
    _remote: RemoteFabric | None
    switch: Switch
    segments: Segments
    mapped: MappedFabric
    _has_cached: ctypes.c_int64
    _is_partly_unmapped: bool
    _get: Callable[..., int]
    _put: Callable[..., int]

    if TYPE_CHECKING:

        @property
        def cache(self) -> LineCache:
            """This rank's coherent copies of cached memory."""

        def pointer(self, address: int) -> int:
            """Where `address` is mapped here."""

    # --- one element

    def load(self, address: int, dtype: Any) -> Any:
        """The element at `address`, with acquire ordering."""
        element = READY.get(dtype) or access_of(dtype)
        try:
            code, value = element.load(self._gate_pointer, address)
        except ARGUMENT_ERRORS:
            return self.load(scalar_address(address), dtype)
        return value if code == status.OK else self._finish(address, element, code, operations.READ)

    def store(self, address: int, value: Any, dtype: Any) -> None:
        """Put `value` at `address`, with release ordering.

        Floats are rounded to the dtype. Raises ArgumentRangeError for an integer that does not fit, and
        ArgumentTypeError for a float where an integer belongs.
        """
        element = READY.get(dtype) or access_of(dtype)
        try:
            code = element.store(self._gate_pointer, address, value)
        except ARGUMENT_ERRORS:
            self.store(scalar_address(address), scalar_value(value, element), dtype)
            return
        if code != status.OK:
            self._finish(address, element, code, operations.WRITE, value)

    def fetch_add(self, address: int, value: int, dtype: Any = "int64") -> int:
        """Add `value` to the integer at `address`, atomically; returns the old value.

        `value` must fit the dtype; the sum wraps around, modulo 2**bits.
        """
        element = self._atomic(dtype)
        try:
            code, old = element.fetch_add(self._gate_pointer, address, value)
        except ARGUMENT_ERRORS:
            return self.fetch_add(scalar_address(address), scalar_value(value, element), dtype)
        return old if code == status.OK else self._finish(address, element, code, operations.FETCH_ADD, value)

    def exchange(self, address: int, value: int, dtype: Any = "int64") -> int:
        """Put `value` at `address`, atomically; returns the old value."""
        element = self._atomic(dtype)
        try:
            code, old = element.exchange(self._gate_pointer, address, value)
        except ARGUMENT_ERRORS:
            return self.exchange(scalar_address(address), scalar_value(value, element), dtype)
        return old if code == status.OK else self._finish(address, element, code, operations.EXCHANGE, value)

    def compare_swap(self, address: int, expected: int, desired: int, dtype: Any = "int64") -> int:
        """Put `desired` at `address` if it holds `expected`, atomically; returns the old value."""
        element = self._atomic(dtype)
        try:
            code, old = element.compare_swap(self._gate_pointer, address, expected, desired)
        except ARGUMENT_ERRORS:
            words = scalar_value(expected, element), scalar_value(desired, element)
            return self.compare_swap(scalar_address(address), *words, dtype)
        if code == status.OK:
            return old
        return self._finish(address, element, code, operations.COMPARE_SWAP, expected, desired)

    def _atomic(self, dtype: Any) -> access.Access:
        element = READY.get(dtype) or access_of(dtype)
        if element.fetch_add is None:
            raise UnknownName("dtype of an atomic", dtype, access.ATOMIC_NAMES)
        return element

    def _finish(
        self, address: int, element: access.Access, code: int, operation: int, first: Any = 0, second: Any = 0
    ) -> Any:
        """Do a scalar access that compiled code has refused or left open: returns its value, or raises its error."""
        self.switch.check_open()
        address = int(address)  # from here on plain arithmetic, which NumPy's narrow integers would overflow
        if code == status.MISALIGNED:
            raise AlignmentError(address, element.num_bytes, f"a {element.name} needs it")
        if code == status.OUT_OF_RANGE:
            raise AddressError(f"address {address:#x} lies in no segment of this world")
        if code == status.CACHED:
            return self._finish_cached(address, element, operation, first, second)
        if self._remote is None:
            self.switch.fabric_to(*self.segments.map.place(address)[:2])  # raises, and says what is missing
            raise AssertionError(address)
        assert gate.is_pending(code), code
        try:
            return element.from_bits(self._finish_remote(address, element, code, operation, first, second))
        except HandlerError as error:
            if error.status != status.CACHED:
                raise
        return self._finish_cached(address, element, operation, first, second)

    def _finish_remote(
        self, address: int, element: access.Access, code: int, operation: int, first: Any, second: Any
    ) -> int:
        """The bits that an unmapped home answers: to the request that compiled code has posted, else to a new one."""
        assert self._remote is not None
        home, num_bytes = self.segments.map.home(address), element.num_bytes
        reply = self._remote.finish_gate(code, home, operation)
        if reply is not None:
            return reply.value
        if operation == operations.READ:
            word = ctypes.c_int64()
            self._remote.get(home, address, ctypes.addressof(word), num_bytes, keep=word)
            return word.value
        bits = element.to_bits(first)
        if operation == operations.WRITE:
            word = ctypes.c_int64(bits)
            self._remote.put(home, address, ctypes.addressof(word), num_bytes, keep=word)
            return 0
        if operation == operations.COMPARE_SWAP:
            return self._remote.compare_swap(home, address, bits, element.to_bits(second), num_bytes)
        change = self._remote.fetch_add if operation == operations.FETCH_ADD else self._remote.exchange
        return change(home, address, bits, num_bytes)

    def _finish_cached(
        self, address: int, element: access.Access, operation: int, first: Any, second: Any
    ) -> Any:
        if operation == operations.READ:
            bits = self.cache.load(address, element.num_bytes)
        else:
            words = element.to_bits(first), element.to_bits(second)
            bits = self.cache.change(address, operation, *words, element.num_bytes)
        return element.from_bits(bits)

    # --- many bytes: plain accesses

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
