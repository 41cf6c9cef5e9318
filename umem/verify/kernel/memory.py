"""What a search asks of a model of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ...kernels.elements import Number
from .operation import Operation


class Memory(Protocol):
    """A model of memory: immutable states, and what an operation may do to them."""

    def start(self, num_lanes: int) -> Any:
        """The state before the first step."""

    def steps(self, state: Any, lane: int, operation: Operation) -> Iterator[tuple[Any, Any, str]]:
        """Each (answer, state after, remark) that `operation` may have. Raises Violation."""

    def is_local(self, operation: Operation) -> bool:
        """Whether taking the step at once, before all others, loses no execution."""

    def settle(self, state: Any, alive: list[int]) -> Any:
        """The same for the lanes that are alive, in the one form that equal states have."""

    def values(self, state: Any) -> dict[int, Number]:
        """What each word holds when all is over."""
