"""Words that no lane writes, beside a model of memory: to load one is a local step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...kernels.intrinsics.elements import Number
from .memory import Memory, Outcome
from .operation import LOAD, Operation
from .places import Violation


class WithConstants:
    """`memory` with further words that keep their values; a store to one is a violation."""

    def __init__(self, memory: Memory, constants: Mapping[int, Number]):
        self._memory, self._constants = memory, constants
        self.start, self.settle, self.values = memory.start, memory.settle, memory.values
        self.unwatched = memory.unwatched

    def steps(self, state: Any, lane: int, operation: Operation) -> list[Outcome]:
        """The outcomes in `memory`; a load of a constant has one, its value."""
        if operation.address not in self._constants:
            return self._memory.steps(state, lane, operation)
        if operation.kind == LOAD:
            return [(self._constants[operation.address], state, "")]
        raise Violation(f"the word at {operation.address:#x} is a constant of the model, and is written")

    def is_local(self, operation: Operation) -> bool:
        """Whether it is local in `memory`, or loads a constant."""
        is_constant = operation.kind == LOAD and operation.address in self._constants
        return is_constant or self._memory.is_local(operation)
