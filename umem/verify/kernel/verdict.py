"""The verdict of a search: its result, and for a bug the trace that leads to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ...kernels.intrinsics.elements import Number
from .operation import Operation

Outcome = tuple[tuple[Any, ...], dict[int, Number]]


class Result(StrEnum):
    """The results of a search. LIMIT, a search that was cut short, is never a pass."""

    EXHAUSTED = "exhausted"
    BUG = "bug"
    LIMIT = "limit"


@dataclass(frozen=True)
class Step:
    """One step of a trace; `choice` is the number of its outcome among those that memory allowed."""

    lane: int
    operation: Operation
    answer: Any
    remark: str
    where: tuple[str, ...]
    choice: int = 0
    is_kill: bool = False


@dataclass(frozen=True)
class Verdict:
    """The result of a search, with its evidence.

    `outcomes`: (results of the lanes, final words) of each distinct end. `bug` and `trace` describe a bug. `growth`
    names, at a limit, the locals by which waiting lanes only count.
    """

    result: Result
    memory: str
    num_states: int
    elapsed_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    bug: str = ""
    trace: tuple[Step, ...] = ()
    unit: str = "states"  # what `num_states` counts
    growth: str = ""

    @property
    def schedule(self) -> str:
        """The trace as `replay` takes it: a lane a step, :n where memory had a choice, ! where the lane was killed."""
        return " ".join(
            f"{step.lane}{f':{step.choice}' if step.choice else ''}{'!' if step.is_kill else ''}"
            for step in self.trace
        )
