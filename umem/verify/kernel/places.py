"""The words of a model: their addresses, first values, and sizes."""

from __future__ import annotations

from collections.abc import Mapping

from ...kernels.intrinsics.elements import Element, Number
from .operation import Operation


class Violation(Exception):
    """A step that no correct kernel takes: the search reports it as a bug, with the trace that leads to it."""


class Places:
    """Addresses of a model's words, numbered. Every word is accessed with one size."""

    def __init__(self, initial: Mapping[int, Number]):
        self.addresses = tuple(initial)
        self.initial = tuple(initial.values())
        self._numbers = {address: number for number, address in enumerate(self.addresses)}
        self._elements: dict[int, Element] = {}

    def of(self, operation: Operation) -> int:
        """The number of the word that `operation` accesses. Raises Violation for no word, and for a second size."""
        number = self._numbers.get(operation.address)
        if number is None:
            raise Violation(f"address {operation.address:#x} is none of the words of the model")
        element = self._elements.setdefault(number, operation.element)
        if element.num_bytes != operation.element.num_bytes:
            raise Violation(
                f"the word at {operation.address:#x} is accessed as {element.name} and as"
                f" {operation.element.name}; a model has one size a word"
            )
        return number
