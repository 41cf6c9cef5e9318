"""Sequentially consistent memory: every access takes effect at once, in one order for all lanes.

Run first: it is fast, and a kernel that is wrong here needs no talk of orderings.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...kernels.intrinsics.elements import Number
from ...kernels.intrinsics.machine import new_value
from .memory import Outcome, Watch
from .operation import FENCE, LOAD, STORE, Operation
from .places import Places

State = tuple[Number, ...]


class Sequential:
    """One value a word. The methods' contracts are in memory.Memory."""

    name = "sequential"

    def __init__(self, initial: Mapping[int, Number]):
        self._places = Places(initial)

    def start(self, num_lanes: int) -> State:
        """Every word as it was given."""
        return tuple(self._places.initial)

    def values(self, state: State) -> dict[int, Number]:
        """By address."""
        return dict(zip(self._places.addresses, state, strict=True))

    def is_local(self, operation: Operation) -> bool:
        """Fences do nothing here."""
        return operation.kind == FENCE

    def unwatched(self) -> frozenset[Watch]:
        """Races are looked for in weak memory."""
        return frozenset()

    def settle(self, state: State, alive: tuple[int, ...]) -> State:
        """A state has one form."""
        return state

    def steps(self, state: State, lane: int, operation: Operation) -> list[Outcome]:
        """One outcome."""
        if operation.kind == FENCE:
            return [(None, state, "")]
        place = self._places.of(operation)
        old = state[place]
        if operation.kind == LOAD:
            return [(old, state, "")]
        if operation.kind == STORE:
            return [(None, (*state[:place], operation.operands[0], *state[place + 1 :]), "")]
        new = new_value(operation.name, operation.element, old, operation.operands)
        return [(old, (*state[:place], new, *state[place + 1 :]), "")]
