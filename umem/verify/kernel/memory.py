"""The interface between a search and a model of memory."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ...kernels.intrinsics.elements import Number
from .operation import Operation

Outcome = tuple[Any, Any, str]  # of a step: the answer, the state after it, a remark for the trace


class Watch(NamedTuple):
    """Loads of a lane that are checked for races: plain ones against all stores of other lanes, others against plain
    stores."""

    address: int
    lane: int
    is_plain: bool


class Memory(Protocol):
    """A model of memory: immutable states, and the outcomes of an operation in each."""

    def start(self, num_lanes: int) -> Any:
        """The state before the first step."""

    def steps(self, state: Any, lane: int, operation: Operation) -> list[Outcome]:
        """Every outcome of `operation`; its state is `state` itself where nothing changes. Raises Violation."""

    def is_local(self, operation: Operation) -> bool:
        """Whether taking the step at once, before all others, loses no execution."""

    def settle(self, state: Any, alive: tuple[int, ...]) -> Any:
        """`state` without what the lanes `alive` cannot reach any more, so that states of one future are equal."""

    def unwatched(self) -> frozenset[Watch]:
        """The loads met so far whose races with stores of other lanes this model has not checked."""

    def values(self, state: Any) -> dict[int, Number]:
        """The final value of each word, by address."""
