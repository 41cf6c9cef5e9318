"""A kernel as an automaton: its states are found by running it again and again in plain Python.

A replay answers the kernel's first accesses from a history; the first access without an answer ends it. A state
is that access, and of every frame its place in the code and the locals that are still read (bytecode.py): these
decide the lane's future. Two histories that end in one state are one from then on. So the search knows states, not
histories, and a kernel runs only where a state is met first.

No value waits on the interpreter's stack, which Python code cannot read: every call is a statement of its own
(rewrite.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any

from ...errors import ModelError
from ...kernels.intrinsics import machine
from ...kernels.intrinsics.elements import Element, Number
from ...kernels.intrinsics.table import TABLE
from .bytecode import places
from .operation import FAILED, FENCE, LOAD, RETURNED, RMW, STORE, WAIT, WAKE, Operation
from .rewrite import SUSPENDED, rewritten

History = tuple[Any, ...]
Frame = tuple[CodeType, int, tuple[Any, ...]]  # its code, the offset in it, the values of its live locals

_NO_MODEL = (
    "an access inside a comprehension, a generator, a `with` block, the guard of a case, or an expression"
    " whose source is not found, has no model; write it as a statement"
)
_INTRINSICS = {row.function.__code__ for row in TABLE.values()}


class _Unanswered(BaseException):
    """Ends a replay at its first access without an answer; no kernel catches it."""


@dataclass(frozen=True)
class LaneState:
    """A state of a lane: its next operation, where it stands in the source, and one history that leads there."""

    operation: Operation
    where: tuple[str, ...]  # innermost function first: "name, line 12 of file.py"
    history: History
    frames: tuple[Frame, ...] = ()  # innermost first


class _Replay(machine.Machine):
    """Answers from a history, then stops."""

    def __init__(self, history: History, index: int, num_lanes: int, constants: Mapping[int, Number]):
        self._answers = iter(history)
        self._index, self._num_lanes, self._constants = index, num_lanes, constants
        self.asked: Operation | None = None
        self.frames: tuple[Frame, ...] = ()
        self.where: tuple[str, ...] = ()

    def load(self, address: int, element: Element, ordering: str) -> Number:
        if address in self._constants:
            return self._constants[address]  # no step: the value does not depend on when it is read
        return self._ask(Operation(LOAD, address, element, ordering))

    def store(self, address: int, element: Element, value: Number, ordering: str) -> None:
        self._ask(Operation(STORE, address, element, ordering, operands=(value,)))

    def rmw(
        self, operation: str, address: int, element: Element, operands: tuple[Number, ...], ordering: str
    ) -> Number:
        return self._ask(Operation(RMW, address, element, ordering, operation, operands))

    def fence(self, ordering: str) -> None:
        self._ask(Operation(FENCE, ordering=ordering))

    def futex_wait(self, address: int, expected: int, timeout_ns: int) -> int:
        return int(self._ask(Operation(WAIT, address, operands=(expected,))))

    def futex_wake(self, address: int, count: int) -> int:
        return int(self._ask(Operation(WAKE, address, operands=(count,))))

    def copy(self, dst: int, src: int, num_bytes: int) -> None:
        raise ModelError("copy_bytes has no model: its words are not told apart; use loads and stores")

    def call_handler(self, function_address: int, request: int, reply: int, context: int) -> int:
        raise ModelError("call_handler has no model: what it calls is compiled code")

    def lane_index(self) -> int:
        return self._index

    def num_lanes(self) -> int:
        return self._num_lanes

    def _ask(self, operation: Operation) -> Any:
        for answer in self._answers:
            return answer
        self.asked = operation
        self._look(sys._getframe(2))
        raise _Unanswered

    def _look(self, frame: FrameType | None) -> None:
        """Note the state of the kernel's frames, from the one that called an intrinsic to the lane's function."""
        found, where = [], []
        while frame is not None and frame.f_code is not _call.__code__:
            if frame.f_code not in _INTRINSICS:
                line = _line(frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno)
                place = places(frame.f_code).get(frame.f_lasti)
                if place is None:
                    raise ModelError(f"an access inside an exception handler has no model: {line}")
                if not place.is_clean or frame.f_code.co_flags & SUSPENDED:
                    raise ModelError(f"{_NO_MODEL}: {line}")
                values = tuple(frame.f_locals.get(name) for name in place.live)
                found.append((frame.f_code, place.offset, values))
                where.append(line)
            frame = frame.f_back
        self.frames, self.where = tuple(found), tuple(where)


class Lane:
    """The automaton of `function(*arguments)`: numbered states, found as the search asks for them."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        index: int,
        num_lanes: int,
        constants: Mapping[int, Number] | None = None,
    ):
        self.function, self.arguments = rewritten(getattr(function, "body", function)), arguments
        self._index, self._num_lanes, self._constants = index, num_lanes, constants or {}
        self.states: list[LaneState] = []
        self._numbers: dict[Any, int] = {}
        self._next: dict[tuple[int, Any], int] = {}
        self.start = self._replay(())

    def next(self, number: int, answer: Any) -> int:
        """The state after `number` when its operation is answered by `answer`."""
        key = (number, answer)
        if key not in self._next:
            state = self.states[number]
            self._next[key] = self._replay((*state.history, answer))
        return self._next[key]

    def _replay(self, history: History) -> int:
        replay = _Replay(history, self._index, self._num_lanes, self._constants)
        where: tuple[str, ...] = ()
        try:
            with machine.use(replay):
                result = _call(self.function, self.arguments)
            operation = Operation(RETURNED, operands=(result,))
            key: Any = operation
        except _Unanswered:
            assert replay.asked is not None
            operation, where = replay.asked, replay.where
            key = (operation, replay.frames)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - any exception of a kernel is a bug that the search reports
            operation = Operation(FAILED, operands=(f"{type(error).__name__}: {error}",))
            where = _lines(error.__traceback__)
            key = (operation, where)
        return self._number(key, LaneState(operation, where, history, replay.frames))

    def _number(self, key: Any, state: LaneState) -> int:
        try:
            number = self._numbers.setdefault(key, len(self.states))
        except TypeError as error:
            raise ModelError(f"{self.function.__name__}: a local cannot be hashed ({error})") from None
        if number == len(self.states):
            self.states.append(state)
        return number


def automata(lanes: Sequence[tuple[Any, ...]], constants: Mapping[int, Number] | None) -> list[Lane]:
    """The lanes of a program, each (kernel, arguments...), as automata."""
    return [Lane(lane[0], lane[1:], index, len(lanes), constants) for index, lane in enumerate(lanes)]


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The outermost frame of a lane."""
    return function(*arguments)


def _lines(trace: TracebackType | None) -> tuple[str, ...]:
    lines = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code not in (_call.__code__, Lane._replay.__code__):
            lines.append(_line(code.co_name, code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return tuple(reversed(lines))


def _line(function: str, file: str, number: int | None) -> str:
    return f"{function}, line {number} of {file.rsplit('/', 1)[-1]}"
