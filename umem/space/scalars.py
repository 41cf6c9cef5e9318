"""Scalar accesses by address: one compiled call each, whatever the memory is and wherever its home."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from ..agent.asking.remote import RemoteFabric
from ..errors import AddressError, AlignmentError, HandlerError, UnknownName
from ..fabric.switch import Switch
from ..kernels import access, status
from ..kernels.page import gate, operations
from ..memory.segment import Segments
from .dtypes import READY, access_of, scalar_address, scalar_value

if TYPE_CHECKING:
    from ..lines.cache import LineCache

# Raised for arguments that compiled code does not take: they are converted and the call is repeated, or refused.
ARGUMENT_ERRORS = (TypeError, OverflowError)


class Scalars:
    """The scalar accesses of a space, one element each; their ordering and errors are those of `Space`."""

    _gate: ctypes.Array[ctypes.c_int64]
    _gate_pointer: int
    _remote: RemoteFabric | None
    switch: Switch
    segments: Segments

    if TYPE_CHECKING:

        @property
        def cache(self) -> LineCache:
            """This rank's coherent copies of cached memory."""

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
            self.switch.fabric_to(self.segments.map.home(address))  # raises, and says what is missing
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
