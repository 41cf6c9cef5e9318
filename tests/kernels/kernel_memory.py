"""Memory, and a machine that shares nothing with the compiler, for the tests of intrinsics."""

from __future__ import annotations

import ctypes

from umem.kernels.build.direct_memory import DirectMemory
from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.elements import Element, Number
from umem.kernels.intrinsics.table import Ordering


class InterpretedMemory(DirectMemory):
    """Real memory whose atomic steps are computed in Python: an oracle that shares nothing with the compiler.

    Not atomic: for one thread.
    """

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def load(self, address: int, element: Element, ordering: Ordering) -> Number:
        self.log.append(("load", address, element.name, ordering))
        return super().load(address, element, "plain")

    def store(self, address: int, element: Element, value: Number, ordering: Ordering) -> None:
        self.log.append(("store", address, element.name, ordering, value))
        super().store(address, element, value, "plain")

    def rmw(
        self, operation: str, address: int, element: Element, operands: tuple[Number, ...], ordering: Ordering
    ) -> Number:
        self.log.append((operation, address, element.name, ordering, operands))
        old = super().load(address, element, "plain")
        super().store(address, element, machine.new_value(operation, element, old, operands), "plain")
        return old

    def fence(self, ordering: Ordering) -> None:
        self.log.append(("fence", ordering))


class Buffer:
    """`num_bytes` of zeroed memory of this process at a 64-byte boundary."""

    def __init__(self, num_bytes: int):
        self._room = (ctypes.c_char * (num_bytes + 64))()
        self.address = (ctypes.addressof(self._room) + 63) & ~63
        self.num_bytes = num_bytes

    def read(self) -> bytes:
        return ctypes.string_at(self.address, self.num_bytes)

    def write(self, content: bytes) -> None:
        assert len(content) <= self.num_bytes
        ctypes.memmove(self.address, content, len(content))
