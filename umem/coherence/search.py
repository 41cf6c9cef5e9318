"""Explicit-state search: every state that a model can reach, breadth first, up to renaming of its ranks.

As in Murphi (Dill, Drexler, Hu, Yang, "Protocol verification as a hardware design aid", ICCD 1992) and its
scalarsets (Ip, Dill, 1996): states that differ only in which rank is which are one state. The first trace that
is found to a bug is a shortest one; it is replayed without the renaming, so a rank keeps its number in it.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

DEFAULT_LIMIT_S = 60.0
DEFAULT_LIMIT_STATES = 3_000_000
_TURNS_PER_CLOCK = 256


class Result(StrEnum):
    """The results of a search. LIMIT, a search that was cut short, is never a pass."""

    EXHAUSTED = "exhausted"
    BUG = "bug"
    LIMIT = "limit"


class Illegal(Exception):
    """A step that no model may take: its name, and its fault."""

    def __init__(self, label: str, fault: str):
        super().__init__(label, fault)
        self.label, self.fault = label, fault


class Model(Protocol):
    """States are hashable, and ordered only as far as `canonical` needs it."""

    name: str

    def start(self) -> Any:
        """The first state."""

    def steps(self, state: Any) -> Iterator[tuple[str, Any]]:
        """Every step from a state: its name, and the state after it. Raises Illegal."""

    def canonical(self, state: Any) -> Any:
        """The representative of all states that differ from this one only by a renaming of ranks."""

    def failure(self, state: Any) -> str | None:
        """The invariant that a state violates, in words, or None."""

    def is_quiet(self, state: Any) -> bool:
        """Whether nothing is under way: such a state must be within reach from everywhere."""

    def text(self, state: Any) -> str:
        """A state in words, for a trace."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a search; for a bug its description, and the shortest trace to it, a line a step."""

    name: str
    result: Result
    num_states: int
    num_steps: int
    elapsed_s: float
    bug: str = ""
    trace: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The verdict in words: one line, and for a bug the trace to it."""
        yield (
            f"{self.name:<34} {self.result:<9} {self.num_states:>9} states {self.num_steps:>9} steps"
            f" {self.elapsed_s:7.2f} s"
        )
        if self.result is Result.BUG:
            yield f"  {self.bug}"
            for number, line in enumerate(self.trace):
                yield f"  {number:>3}  {line}"


def search(
    model: Model, limit_states: int = DEFAULT_LIMIT_STATES, limit_s: float = DEFAULT_LIMIT_S
) -> Verdict:
    """Search every state of the model: exhausted, or the first bug, or a limit of states or seconds, which is no pass.

    A bug is: an illegal step, a state with a `failure`, or a state from which no quiet state is reached.
    """
    return _Search(model).run(limit_states, limit_s)


class _Search:
    def __init__(self, model: Model):
        self._model = model
        first = model.canonical(model.start())
        self._states = [first]
        self._numbers = {first: 0}
        self._parents = array("l", [-1])
        self._arrows = (array("l"), array("l"))  # of all steps, also to states met before: from, to
        self._begin = time.monotonic()

    def run(self, limit_states: int, limit_s: float) -> Verdict:
        model, states, numbers = self._model, self._states, self._numbers
        sources, targets = self._arrows
        number = 0
        while number < len(states):
            bug = model.failure(states[number])
            if bug is not None:
                return self._verdict(Result.BUG, bug, number)
            try:
                for _, state in model.steps(states[number]):
                    state = model.canonical(state)
                    target = numbers.setdefault(state, len(states))
                    if target == len(states):
                        states.append(state)
                        self._parents.append(number)
                    sources.append(number)
                    targets.append(target)
            except Illegal as illegal:
                return self._verdict(Result.BUG, illegal.fault, number, is_last=True)
            number += 1
            too_long = number % _TURNS_PER_CLOCK == 0 and time.monotonic() - self._begin > limit_s
            if (too_long or len(states) > limit_states) and number < len(states):
                return self._verdict(Result.LIMIT)
        stuck = self._first_stuck()
        if stuck is not None:
            return self._verdict(Result.BUG, "stuck: from here on nothing comes to an end", stuck)
        return self._verdict(Result.EXHAUSTED)

    def _first_stuck(self) -> int | None:
        """The first state from which no quiet one can be reached."""
        before: list[list[int]] = [[] for _ in self._states]
        for source, target in zip(*self._arrows, strict=True):
            before[target].append(source)
        waiting = [number for number, state in enumerate(self._states) if self._model.is_quiet(state)]
        reaches = bytearray(len(self._states))
        for number in waiting:
            reaches[number] = 1
        while waiting:
            for number in before[waiting.pop()]:
                if not reaches[number]:
                    reaches[number] = 1
                    waiting.append(number)
        stuck = reaches.find(0)
        return None if stuck < 0 else stuck

    def _verdict(self, result: Result, bug: str = "", number: int = 0, is_last: bool = False) -> Verdict:
        elapsed_s = time.monotonic() - self._begin
        replayed, trace = self._replay(number, is_last) if bug else (None, ())
        return Verdict(
            self._model.name,
            result,
            len(self._states),
            len(self._arrows[0]),
            elapsed_s,
            replayed or bug,
            trace,
        )

    def _replay(self, number: int, is_last: bool) -> tuple[str | None, tuple[str, ...]]:
        """The bug and the trace to it, replayed with ranks that keep their numbers."""
        path = []
        while number > 0:
            path.append(number)
            number = self._parents[number]
        model = self._model
        state, lines = model.start(), []
        for target in reversed(path):
            known = self._states[target]
            label, state = next(
                (label, after) for label, after in model.steps(state) if model.canonical(after) == known
            )
            lines.append(f"{label:<52} {model.text(state)}")
        if not is_last:
            return model.failure(state), tuple(lines)
        try:
            for _ in model.steps(state):
                pass
        except Illegal as illegal:
            return illegal.fault, (*lines, illegal.label)
        raise AssertionError("a step was illegal, and is not any more")
