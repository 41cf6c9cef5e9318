"""All executions of a bounded program: breadth first over the states of its lanes and of memory.

A state that was met before is not followed again, so a wait that spins is a loop of states and costs nothing. With
`reduces` a lane whose next step is local, which no other lane can observe, takes it before any other lane moves. The
first trace to a bug is a shortest one among the executions of that form. A lane that sleeps on a futex wakes only by
a futex_wake, never by its timeout: otherwise no lost wake-up could be found. A program is stuck where a state is
reached from which no continuation leads to the end of all lanes: a deadlock, or a livelock under any fairness.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...errors import ConfigError, UnknownName
from ...kernels.intrinsics.elements import I64, Number
from .constants import WithConstants
from .growth import growth
from .lane import Lane, automata
from .memory import Memory, Watch
from .operation import FAILED, STORE, WAIT, WAKE, Operation
from .places import Violation
from .sequential import Sequential
from .verdict import Outcome, Result, Step, Verdict
from .views import Memo
from .weak import Weak

MEMORIES: dict[str, Callable[..., Memory]] = {"sequential": Sequential, "weak": Weak}
DEFAULT_LIMIT_S = 60.0
DEFAULT_LIMIT_STATES = 3_000_000
_KILLED = -1
_TURNS_PER_CLOCK = 256
_NO_LANES: frozenset[int] = frozenset()
_FUTEX_MASK = (1 << 32) - 1  # a futex compares the low half of a word

Deaths = Mapping[int, Mapping[int, Number]]
Final = Callable[[Sequence[Any], Mapping[int, Number]], str | None]


class _Edge(NamedTuple):
    """How a state was met first."""

    before: int
    lane: int
    lane_state: int
    answer: Any
    remark: str
    choice: int
    is_kill: bool


def explore(
    lanes: Sequence[tuple[Any, ...]],
    memory: Mapping[int, Number],
    final: Final | None = None,
    model: str = "weak",
    kills: int = 0,
    constants: Mapping[int, Number] | None = None,
    deaths: Deaths | None = None,
    limit_states: int = DEFAULT_LIMIT_STATES,
    limit_s: float = DEFAULT_LIMIT_S,
    reduces: bool = True,
    mortal: Collection[int] | None = None,
    watches_loads: bool = True,
) -> Verdict:
    """Search every execution of `lanes`, each (kernel, arguments...), over the words of `memory`.

    Kernels are undecorated functions or cpu_kernels; they run from their source (rewrite.py). `memory` is the first
    value of every word that they access, by address; `final(results, memory)` returns the fault of an end, or None;
    the result of a killed lane is `KILLED`. `model` is "weak" or "sequential". Up to `kills` of the lanes `mortal`
    (all unless given) stop for ever before one of their accesses; `deaths[lane]` are the words, with values, that are
    then stored behind the lane's last access to tell other lanes. `constants` are words that no lane writes, whose
    loads are local steps. `reduces` False takes no local step early: slower, with the same result, which is how the
    reduction is tested. Where a plain load may race with a store, or a load with a plain store, a second search watches
    these loads (weak.py); `watches_loads` False leaves it out.

    A bug is: an exception in a kernel, a data race of plain accesses, a word that is not in `memory`, an end
    that `final` refuses, a state from which no end is reached.
    """
    if not lanes:
        raise ConfigError("a program without lanes does nothing; give at least one (kernel, arguments...)")
    words = memory_of(model, memory, constants)
    _check_deaths(deaths or {}, memory)
    futexes: set[int] = set()  # addresses on which lanes sleep: a store there is no local step
    watched: frozenset[Watch] = frozenset()
    begin = time.monotonic()
    while True:
        words = memory_of(model, memory, constants, watched)
        left_s = limit_s - (time.monotonic() - begin)
        search = _Search(
            automata(lanes, constants),
            words,
            final,
            model,
            kills,
            deaths or {},
            limit_states,
            left_s,
            reduces,
            mortal,
            frozenset(futexes),
        )
        verdict = replace(search.run(), elapsed_s=time.monotonic() - begin)
        if reduces and not search.futexes <= futexes:
            futexes |= search.futexes
        elif verdict.result is Result.EXHAUSTED and watches_loads and words.unwatched():
            watched = words.unwatched()
        else:
            return verdict


def _check_deaths(deaths: Deaths, memory: Mapping[int, Number]) -> None:
    for lane, words in deaths.items():
        for address in words:
            if address not in memory:
                raise ConfigError(
                    f"the death of lane {lane} is told by the word at {address:#x}; put it into `memory`"
                )


def memory_of(
    model: str,
    initial: Mapping[int, Number],
    constants: Mapping[int, Number] | None,
    watched: Collection[Watch] = (),
) -> Memory:
    """The memory model of this name over these words, with these loads watched. Raises UnknownName."""
    if model not in MEMORIES:
        raise UnknownName("memory model", model, tuple(MEMORIES))
    memory = MEMORIES[model](initial, watched) if watched else MEMORIES[model](initial)
    return WithConstants(memory, constants) if constants else memory


def tell_death(memory: Memory, state: Any, lane: int, deaths: Deaths) -> Any:
    """The state of memory after the stores by which other lanes learn that `lane` was killed."""
    for address, value in deaths.get(lane, {}).items():
        store = Operation(STORE, address, I64, "release", operands=(value,))
        state = memory.steps(state, lane, store)[0][1]
    return state


class Killed:
    """The result of a lane that was killed."""

    def __repr__(self) -> str:
        return "KILLED"


KILLED = Killed()


class _Task(NamedTuple):
    """The next step of a lane in one of its states."""

    operation: Operation | None  # None: it was killed
    is_going: bool
    is_local: bool


class _Search:
    def __init__(
        self,
        lanes: list[Lane],
        memory: Memory,
        final: Final | None,
        model: str,
        kills: int,
        deaths: Deaths,
        limit_states: int,
        limit_s: float,
        reduces: bool,
        mortal: Collection[int] | None,
        futexes: Collection[int],
    ):
        self._lanes = lanes
        self.futexes = set(
            futexes
        )  # addresses on which lanes sleep; ones beyond `_respected` need a new search
        self._respected = frozenset(futexes)
        self._violating: Step | None = None
        self._memory, self._final, self._model = memory, final, model
        self._kills, self._deaths, self._mortal = kills, deaths, mortal
        self._limit_states, self._limit_s, self._reduces = limit_states, limit_s, reduces
        self._tasks = [Memo(partial(self._task, lane)) for lane in range(len(lanes))]  # by state of the lane
        self._alive = Memo(self._going)
        first = (tuple(lane.start for lane in self._lanes), memory.start(len(lanes)), 0, _NO_LANES)
        self._states = [first]
        self._numbers = {first: 0}
        self._edges: list[_Edge | None] = [None]
        self._arrows = (array("l"), array("l"))  # of all steps, also to states met before: from, to
        self._ends: list[int] = []
        self._outcomes: dict[Any, Outcome] = {}

    def run(self) -> Verdict:
        """Search until every state was followed, a bug is found, or a limit is met."""
        was_enabled = gc.isenabled()
        gc.disable()  # states are many and in no cycle: looking for one takes a third of the time
        try:
            return self._run()
        finally:
            for large in (self._states, self._numbers, self._edges):
                large.clear()  # now, not when the search itself, which is in a cycle with its memos, is found
            if was_enabled:
                gc.enable()

    def _run(self) -> Verdict:
        begin = time.monotonic()
        number = 0
        noted = 1
        sizes = before = [len(lane.states) for lane in self._lanes]
        while number < len(self._states):
            bug = self._expand(number)
            if bug:
                return self._verdict(Result.BUG, begin, bug, number)
            number += 1
            if number == 2 * noted:  # of the lanes, when a quarter to half of all states were followed
                noted, before, sizes = number, sizes, [len(lane.states) for lane in self._lanes]
            too_long = number % _TURNS_PER_CLOCK == 0 and time.monotonic() - begin > self._limit_s
            if too_long or len(self._states) > self._limit_states:
                verdict = self._verdict(Result.LIMIT, begin)
                return replace(verdict, growth=growth(self._lanes, before))
        stuck = self._first_stuck()
        if stuck is not None:
            return self._verdict(Result.BUG, begin, "stuck: no continuation comes to an end", stuck)
        return self._verdict(Result.EXHAUSTED, begin)

    def _expand(self, number: int) -> str | None:
        """Enter every state that may follow this one; returns the bug in it, or None."""
        lane_states, memory, num_kills, asleep = self._states[number]
        tasks = [tasks[state] for tasks, state in zip(self._tasks, lane_states, strict=True)]
        for lane, task in enumerate(tasks):
            if task.operation is not None and task.operation.kind == FAILED:
                return f"lane {lane} raised {task.operation.operands[0]}"
        active = [lane for lane, task in enumerate(tasks) if task.is_going and lane not in asleep]
        if not active and not asleep:
            return self._end(number, [task.operation for task in tasks], memory)
        local = [lane for lane in active if tasks[lane].is_local] if self._reduces else []
        for lane in local[:1] or active:
            operation, state = tasks[lane].operation, lane_states[lane]
            assert operation is not None
            if operation.kind in (WAIT, WAKE):
                self._futex(number, lane, operation)
            else:
                try:
                    outcomes = self._memory.steps(memory, lane, operation)
                except Violation as violation:
                    where = self._lanes[lane].states[state].where
                    self._violating = Step(lane, operation, None, "", where)
                    return f"lane {lane}: {violation}, at {', '.join(where[:2])}"
                go_on = self._lanes[lane].next
                for choice, (answer, after, remark) in enumerate(outcomes):
                    step = _Edge(number, lane, state, answer, remark, choice, False)
                    moved = (*lane_states[:lane], go_on(state, answer), *lane_states[lane + 1 :])
                    self._enter(step, moved, after, num_kills, asleep)
            self._kill(number, lane)
        for lane in asleep:
            self._kill(number, lane)
        return None

    def _kill(self, number: int, lane: int) -> None:
        """Enter the state in which `lane` has been killed, where it may be."""
        lane_states, memory, num_kills, asleep = self._states[number]
        if num_kills < self._kills and (self._mortal is None or lane in self._mortal):
            step = _Edge(number, lane, lane_states[lane], None, "", 0, True)
            moved = (*lane_states[:lane], _KILLED, *lane_states[lane + 1 :])
            after = tell_death(self._memory, memory, lane, self._deaths)
            self._enter(step, moved, after, num_kills + 1, asleep - {lane})

    def _task(self, lane: int, state: int) -> _Task:
        operation = None if state == _KILLED else self._lanes[lane].states[state].operation
        if operation is None or operation.is_over:
            return _Task(operation, False, False)
        is_local = self._memory.is_local(operation) and operation.address not in self._respected
        return _Task(operation, True, is_local)

    def _going(self, lane_states: tuple[int, ...]) -> tuple[int, ...]:
        """The lanes that have neither ended nor been killed."""
        return tuple(lane for lane, state in enumerate(lane_states) if self._tasks[lane][state].is_going)

    def _futex(self, number: int, lane: int, operation: Operation) -> None:
        """Fall asleep where the word is as expected, by its newest value; or wake lanes that sleep on it."""
        lane_states, memory, num_kills, asleep = self._states[number]
        if operation.kind == WAIT:
            self.futexes.add(operation.address)
            value = int(self._memory.values(memory)[operation.address])
            if (value ^ operation.operands[0]) & _FUTEX_MASK == 0:
                step = _Edge(number, lane, lane_states[lane], None, "falls asleep", 0, False)
                self._enter(step, lane_states, memory, num_kills, asleep | {lane})
                return
            woken: list[int] = []
        else:
            sleeps_on = {other: self._tasks[other][lane_states[other]].operation.address for other in asleep}
            sleepers = sorted(other for other in asleep if sleeps_on[other] == operation.address)
            woken = sleepers[: operation.operands[0]]
        moved = list(lane_states)
        for other in woken:
            moved[other] = self._lanes[other].next(lane_states[other], 0)
        moved[lane] = self._lanes[lane].next(lane_states[lane], len(woken))
        step = _Edge(number, lane, lane_states[lane], len(woken), "", 0, False)
        self._enter(step, tuple(moved), memory, num_kills, asleep - set(woken))

    def _enter(
        self,
        step: _Edge,
        lane_states: tuple[int, ...],
        memory: Any,
        num_kills: int,
        asleep: frozenset[int],
    ) -> None:
        """Note the state that `step` leads to."""
        is_going = self._tasks[step.lane][lane_states[step.lane]].is_going
        if memory is not self._states[step.before][1] or not is_going:
            memory = self._memory.settle(memory, self._alive[lane_states])
        new = (lane_states, memory, num_kills, asleep)
        number = self._numbers.setdefault(new, len(self._states))
        if number == len(self._states):
            self._states.append(new)
            self._edges.append(step)
        if not step.is_kill:  # a lane that waits must not need the death of another to go on
            self._arrows[0].append(step.before)
            self._arrows[1].append(number)

    def _end(self, number: int, operations: list[Operation | None], memory: Any) -> str | None:
        self._ends.append(number)
        results = tuple(KILLED if operation is None else operation.operands[0] for operation in operations)
        values = self._memory.values(memory)
        self._outcomes.setdefault((results, tuple(values.items())), (results, values))
        return self._final(results, values) if self._final else None

    def _first_stuck(self) -> int | None:
        """The first state from which no end can be reached."""
        before: list[list[int]] = [[] for _ in self._states]
        for source, target in zip(*self._arrows, strict=True):
            before[target].append(source)
        reaches = bytearray(len(self._states))
        waiting = list(self._ends)
        for number in waiting:
            reaches[number] = 1
        while waiting:
            for number in before[waiting.pop()]:
                if not reaches[number]:
                    reaches[number] = 1
                    waiting.append(number)
        stuck = reaches.find(0)
        return None if stuck < 0 else stuck

    def _verdict(self, result: Result, begin: float, bug: str = "", number: int = 0) -> Verdict:
        trace = tuple(self._trace(number)) if bug else ()
        if self._violating is not None:
            trace = (*trace, self._violating)
        elapsed_s = time.monotonic() - begin
        outcomes = list(self._outcomes.values())
        return Verdict(result, self._model, len(self._states), elapsed_s, outcomes, bug, trace)

    def _trace(self, number: int) -> list[Step]:
        steps = []
        while (edge := self._edges[number]) is not None:
            state = self._lanes[edge.lane].states[edge.lane_state]
            steps.append(
                Step(
                    edge.lane,
                    state.operation,
                    edge.answer,
                    edge.remark,
                    state.where,
                    edge.choice,
                    edge.is_kill,
                )
            )
            number = edge.before
        return steps[::-1]
