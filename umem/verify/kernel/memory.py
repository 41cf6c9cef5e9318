"""What a search asks of a model of memory."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ...kernels.intrinsics.elements import Number
from .operation import Operation

Outcome = tuple[Any, Any, str]  # of a step: the answer, the state after it, a remark for the trace


class Watch(NamedTuple):
    """Loads of a lane that stores of others must not race with: plain ones with any store, others with plain stores."""

    address: int
    lane: int
    is_plain: bool


class Memory(Protocol):
    """A model of memory: immutable states, and what an operation may do to them."""

    def start(self, num_lanes: int) -> Any:
        """The state before the first step."""

    def steps(self, state: Any, lane: int, operation: Operation) -> list[Outcome]:
        """Every outcome that `operation` may have; `state` itself where it changes nothing. Raises Violation."""

    def is_local(self, operation: Operation) -> bool:
        """Whether taking the step at once, before all others, loses no execution."""

    def settle(self, state: Any, alive: tuple[int, ...]) -> Any:
        """The same for the lanes that are alive, in the one form that equal states have."""

    def unwatched(self) -> frozenset[Watch]:
        """The loads that were met and that a later store of others may race with unseen."""

    def values(self, state: Any) -> dict[int, Number]:
        """What each word holds when all is over."""
