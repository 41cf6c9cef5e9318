"""Single executions of a program: one that a schedule names, and random ones where there are too many for a search.

Random walks follow Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs"
(ASPLOS 2010): lanes have random priorities, the highest runs, and at a few random steps the running lane falls
to the lowest. It also does so at random, lest a lane that spins keeps the lane that it waits for from running; so the
bound of the paper does not hold here. Where memory offers several outcomes, one is drawn.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...errors import ConfigError
from ...kernels.intrinsics.elements import Number
from .lane import Lane, automata
from .memory import Memory, Outcome
from .operation import FAILED, WAIT, WAKE, Operation
from .places import Violation
from .search import KILLED, Deaths, Final, memory_of, tell_death
from .verdict import Result, Step, Verdict

_CHANGES = 3  # of priority in a walk
MANY_STEPS = 50  # about what a lane does
MAX_STEPS = 10_000  # of a walk, so that lanes that wait for each other for ever end it


def replay(
    lanes: Sequence[tuple[Any, ...]],
    memory: Mapping[int, Number],
    schedule: str,
    final: Final | None = None,
    model: str = "weak",
    constants: Mapping[int, Number] | None = None,
    deaths: Deaths | None = None,
) -> str | None:
    """The bug at the end of the execution that `Verdict.schedule` describes, or None: for regression tests.

    A schedule that does not fit the program any more raises ConfigError: the kernel has changed.
    """
    automatons, words = automata(lanes, constants), memory_of(model, memory, constants)
    bug = _replayed(_Run(automatons, words, final), schedule, deaths or {})
    watched = words.unwatched()
    if bug or not watched:
        return bug
    return _replayed(
        _Run(automatons, memory_of(model, memory, constants, watched), final), schedule, deaths or {}
    )


def _replayed(run: _Run, schedule: str, deaths: Deaths) -> str | None:
    """The bug at the end of the schedule, or None."""
    for number, word in enumerate(schedule.split()):
        lane, _, choice = word.rstrip("!").partition(":")
        if not run.can_step(int(lane)):
            raise ConfigError(f"step {number} of the schedule: lane {lane} has ended; the kernel has changed")
        bug = run.kill(int(lane), deaths) if word.endswith("!") else run.step(int(lane), int(choice or 0))
        if bug:
            return bug
    return run.failure()


def walk(
    lanes: Sequence[tuple[Any, ...]],
    memory: Mapping[int, Number],
    final: Final | None = None,
    model: str = "weak",
    constants: Mapping[int, Number] | None = None,
    walks: int = 1000,
    seed: int = 1,
    limit_s: float = 60.0,
    kills: int = 0,
    deaths: Deaths | None = None,
    mortal: Collection[int] | None = None,
) -> Verdict:
    """Run `walks` random executions, for programs that cannot be exhausted. A LIMIT with the steps taken, or a BUG.

    Up to `kills` of the `mortal` lanes are killed before a random step, as in `explore`. The trace of a
    bug is not the shortest one. A walk that does not end is no bug: nothing is said of progress.
    """
    rng, begin, num_steps = random.Random(seed), time.monotonic(), 0
    model_of_memory = memory_of(model, memory, constants)
    automatons = automata(lanes, constants)
    for _ in range(walks):
        run = _Run(automatons, model_of_memory, final)
        bug = run.at_random(rng, kills, deaths or {}, range(len(lanes)) if mortal is None else mortal)
        num_steps += len(run.trace)
        elapsed_s = time.monotonic() - begin
        if bug:
            return Verdict(
                Result.BUG, model, num_steps, elapsed_s, [], bug, tuple(run.trace), "steps at random"
            )
        if elapsed_s > limit_s:
            break
    return Verdict(Result.LIMIT, model, num_steps, time.monotonic() - begin, unit="steps at random")


class _Run:
    """One execution under way."""

    def __init__(self, lanes: Sequence[Lane], memory: Memory, final: Final | None):
        self._lanes = lanes
        self._memory, self._final = memory, final
        self._at: list[int | None] = [lane.start for lane in self._lanes]
        self._state = memory.start(len(lanes))
        self.trace: list[Step] = []

    def at_random(
        self, rng: random.Random, kills: int, deaths: Deaths, mortal: Collection[int]
    ) -> str | None:
        """Run to the end; returns the bug, or None."""
        fatal = {rng.randrange(MANY_STEPS * len(self._lanes)) for _ in range(kills)}
        order = rng.sample(range(len(self._lanes)), len(self._lanes))
        changes = {rng.randrange(1, MANY_STEPS * (number + 1)) for number in range(_CHANGES)}
        for number in range(MAX_STEPS):
            ready = [lane for lane in order if self.can_step(lane)]
            if not ready:
                return self.failure()
            lane = ready[0]
            if number in fatal and lane in mortal:
                self.kill(lane, deaths)
                continue
            if number in changes or rng.random() < 0.05:
                order.remove(lane)
                order.append(lane)
            bug = self.step(lane, None, rng)
            if bug:
                return bug
        return None

    def can_step(self, lane: int) -> bool:
        """Whether the lane has not ended."""
        operation = self._operation(lane)
        return operation is not None and not operation.is_over

    def kill(self, lane: int, deaths: Deaths) -> str | None:
        """Stop the lane for ever, and tell the others."""
        state = self._lanes[lane].states[self._at[lane] or 0]
        self.trace.append(Step(lane, state.operation, None, "", state.where, 0, True))
        self._at[lane] = None
        self._state = tell_death(self._memory, self._state, lane, deaths)
        return None

    def step(self, lane: int, choice: int | None, rng: random.Random | None = None) -> str | None:
        """Let the lane go on with the given outcome, or a random one; returns the bug in the step, or None."""
        number = self._at[lane]
        assert number is not None
        state = self._lanes[lane].states[number]
        try:
            outcomes = self._outcomes(lane, state.operation)
        except Violation as violation:
            return f"lane {lane}: {violation}, at {', '.join(state.where[:2])}"
        if choice is None:
            assert rng is not None
            choice = rng.randrange(len(outcomes))
        if choice >= len(outcomes):
            raise ConfigError(f"the schedule's outcome {choice} of {len(outcomes)}: the kernel has changed")
        answer, after, remark = outcomes[choice]
        self.trace.append(Step(lane, state.operation, answer, remark, state.where, choice))
        self._at[lane] = self._lanes[lane].next(number, answer)
        alive = tuple(other for other in range(len(self._lanes)) if self.can_step(other))
        self._state = self._memory.settle(after, alive)
        return self._exception(lane)

    def failure(self) -> str | None:
        """The bug that the end shows, or None; while lanes still run, a violation in the next step of one."""
        if any(self.can_step(lane) for lane in range(len(self._lanes))):
            return self._violation()
        results = []
        for lane in range(len(self._lanes)):
            operation = self._operation(lane)
            results.append(KILLED if operation is None else operation.operands[0])
        return self._final(tuple(results), self._memory.values(self._state)) if self._final else None

    def _outcomes(self, lane: int, operation: Operation) -> list[Outcome]:
        """The outcomes of a step. No lane sleeps here: a futex may always return early."""
        if operation.kind in (WAIT, WAKE):
            return [(0, self._state, "")]
        return self._memory.steps(self._state, lane, operation)

    def _violation(self) -> str | None:
        """The violation in the next step of a lane, or None: a schedule ends before a step that memory refuses."""
        for lane, number in enumerate(self._at):
            if number is not None and self.can_step(lane):
                state = self._lanes[lane].states[number]
                try:
                    self._outcomes(lane, state.operation)
                except Violation as violation:
                    return f"lane {lane}: {violation}, at {', '.join(state.where[:2])}"
        return None

    def _operation(self, lane: int) -> Operation | None:
        number = self._at[lane]
        return None if number is None else self._lanes[lane].states[number].operation

    def _exception(self, lane: int) -> str | None:
        operation = self._operation(lane)
        if operation is not None and operation.kind == FAILED:
            return f"lane {lane} raised {operation.operands[0]}"
        return None
