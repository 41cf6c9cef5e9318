"""What a search may say, and the way to a bug."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ...kernels.intrinsics.elements import Number
from .operation import Operation

Outcome = tuple[tuple[Any, ...], dict[int, Number]]


class Result(StrEnum):
    """What a search may say. A limit is never a pass."""

    EXHAUSTED = "exhausted"
    BUG = "bug"
    LIMIT = "limit"


@dataclass(frozen=True)
class Step:
    """One step of a trace; `choice` numbers the outcomes that memory allowed."""

    lane: int
    operation: Operation
    answer: Any
    remark: str
    where: tuple[str, ...]
    choice: int = 0
    is_kill: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a search found. `outcomes`: (results, memory) of each end; for a bug its description and the way to it;
    of a limit what still grows, where lanes only count while they wait."""

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
        """The trace for `replay`: a lane a step, :n where memory had a choice, ! where the lane was killed."""
        return " ".join(
            f"{step.lane}{f':{step.choice}' if step.choice else ''}{'!' if step.is_kill else ''}"
            for step in self.trace
        )
