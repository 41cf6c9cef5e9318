"""Reductions in parts: what passes them on and what makes a result of the last one, by pointers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ..kernels.collective.parts import SOURCES_SHIFT, conversions, wide_name
from ..kernels.collective.reductions import reduction
from ..kernels.collective.rounds import NEVER
from ..kernels.data.reduce import AVERAGE, SUM, TYPE_BYTES


@dataclass(frozen=True)
class Partial:
    """A reduction of the elements that kernels call `element`, which is passed on as elements that they call `wide`."""

    operation: int
    element: str

    @property
    def address(self) -> int:
        """Address of the function that combines all inputs at once."""
        return reduction(self.operation, self.element).address

    @property
    def wide(self) -> str:
        """The element type of a part."""
        return wide_name(self.operation, self.element)

    @property
    def item_bytes(self) -> int:
        """Of an element."""
        return TYPE_BYTES[self.element]

    @property
    def part_bytes(self) -> int:
        """Of an element of a part."""
        return TYPE_BYTES[self.wide]

    @property
    def joining(self) -> int:
        """Address of the function that combines parts."""
        return reduction(self._joins, self.wide).address

    @property
    def _joins(self) -> int:
        return SUM if self.operation == AVERAGE else self.operation

    @property
    def is_final(self) -> bool:
        """Whether the last part is the result."""
        return self.wide == self.element and self.operation != AVERAGE

    def widen(self, dst: int, src: int, num_elements: int) -> None:
        """Make a part of elements."""
        conversions(self.operation, self.element)[0].ctypes(dst, src, num_elements)

    def join(self, dst: int, first: int, second: int, num_elements: int) -> None:
        """Combine two parts, the earlier members' first; `dst` may be one of them."""
        sources, shape = (ctypes.c_int64 * 2)(first, second), (ctypes.c_int64 * 3)(2, num_elements, NEVER)
        join = reduction(self._joins, self.wide).ctypes
        join(dst, ctypes.addressof(sources), ctypes.addressof(shape))

    def conclude(self, dst: int, total: int, num_elements: int, num_sources: int) -> None:
        """Make the result of `num_sources` inputs of their last part."""
        sizes = num_elements | num_sources << SOURCES_SHIFT
        conversions(self.operation, self.element)[1].ctypes(dst, total, sizes)
