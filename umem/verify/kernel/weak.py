"""Weak memory: what C++ and PTX allow short of promises, as an operational model that can be searched.

Each word has the list of its messages, in modification order. A lane has views: for each word the oldest
message that it may still read. A load takes any message from its view on; a store goes anywhere behind it, but
never between a message and the read-modify-write that has replaced it. A release puts the lane's view into the
message, an acquire takes it over; a fence does the same for the relaxed accesses before or behind it, and a
sequentially consistent fence joins views with all earlier ones.

The model is that of Kang et al., "A promising semantics for relaxed-memory concurrency" (POPL 2017), without
promises, with the fences of Lahav et al., "Repairing sequential consistency in C/C++11" (PLDI 2017): coherence,
release sequences, no values out of thin air, no load buffering of relaxed accesses.

A plain access must not race: its lane's view holds the newest message of the word, and the view of a lane that
meets a plain store, by any access, holds that store; else it is a violation. A watched load leaves a mark, which
travels in views like a message: a lane that stores to the word must have it in its view (the happens-before of
vector clocks, as in Flanagan and Freund, "FastTrack", PLDI 2009). Views also hold the messages that relaxed loads
have met, and those that fences pass on: a race with a message known only so is not found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ...kernels.intrinsics.elements import Number
from ...kernels.intrinsics.machine import new_value
from .memory import Outcome, Watch
from .operation import FENCE, LOAD, STORE, Operation
from .places import Places, Violation
from .views import ZERO, Memo, Message, Renumbering, Tables, View, spreading, trimming

PLAIN = ("plain", "stream")


class State(NamedTuple):
    """`rows`: the messages of each word; the rest are views. All are numbers (views.py).

    By lane, `seen`: the oldest messages that it may still read; `read`: what its relaxed loads have met, for its next
    acquire fence; `sent`: what its last release fence lets relaxed stores publish. `total`: the view that all
    sequentially consistent fences share.
    """

    rows: tuple[int, ...]
    seen: tuple[int, ...]
    read: tuple[int, ...]
    sent: tuple[int, ...]
    total: int


class Weak:
    """Words with all their messages. The methods' contracts are in memory.Memory."""

    name = "weak"

    def __init__(self, initial: Mapping[int, Number], watched: Collection[Watch] = ()):
        self._places = Places(initial)
        num_words = len(self._places.initial)
        # By word, then by lane and whether the load is plain: the word that holds the load's marks.
        self._marks: dict[int, dict[tuple[int, bool], int]] = {}
        for mark, watch in enumerate(sorted(watched), num_words):
            word = self._places.addresses.index(watch.address)
            self._marks.setdefault(word, {})[watch.lane, watch.is_plain] = mark
        self._loads: set[tuple[int, int, bool]] = set()  # all that were met: word, lane, whether it is plain
        self._stores: set[tuple[int, int, bool]] = set()
        self._last_plain = Memo(self._last_plain_of)  # by word and number of its row
        self._tables = Tables(num_words + len(watched))
        self._forgettings = Memo(self._forgetting)  # by word of marks
        self._trimmings = Memo(self._trimming)
        self._spreadings = Memo(lambda key: spreading(self._tables, *key))

    def start(self, num_lanes: int) -> State:
        """Every word has one message, its first value, which all lanes have seen."""
        num_marks = sum(map(len, self._marks.values()))
        values = enumerate((*self._places.initial, *(0,) * num_marks))
        rows = tuple(self._tables.row(word, (Message(value, ZERO),)) for word, value in values)
        empty = (ZERO,) * num_lanes
        return State(rows, empty, empty, empty, ZERO)

    def values(self, state: State) -> dict[int, Number]:
        """By address, the last in modification order."""
        rows = self._tables.rows
        return {
            address: rows[word][state.rows[word]][-1].value
            for word, address in enumerate(self._places.addresses)
        }

    def is_local(self, operation: Operation) -> bool:
        """Stores and local fences may go first: where a store lands is chosen in any case, and it changes nothing
        for lanes that do not read it."""
        return operation.kind in (STORE, FENCE) and operation.ordering != "seq_cst"

    def settle(self, state: State, alive: tuple[int, ...]) -> State:
        """The state without messages that no lane can read any more; indices count from the oldest that is left."""
        if len(alive) < len(state.seen):
            state = _without_the_dead(state, alive)
        if not alive:
            rows = [self._tables.rows[word][row] for word, row in enumerate(state.rows)]
            return self._renumbered(state, trimming(self._tables, tuple(len(row) - 1 for row in rows)))
        change = self._trimmings[state.seen, alive]
        return self._renumbered(state, change) if change else state

    def unwatched(self) -> frozenset[Watch]:
        """The loads so far that a store of another lane may race with; none once loads are watched."""
        if self._marks:
            return frozenset()
        return frozenset(
            Watch(self._places.addresses[word], lane, is_plain)
            for word, lane, is_plain in self._loads
            for stored, other, stores_plainly in self._stores
            if word == stored and lane != other and (is_plain or stores_plainly)
        )

    def steps(self, state: State, lane: int, operation: Operation) -> list[Outcome]:
        """Every message that a load may take, every place where a store may land."""
        if operation.kind == FENCE:
            return [(None, self._fence(state, lane, operation), "")]
        word = self._places.of(operation)
        row = self._tables.rows[word][state.rows[word]]
        first = self._tables.views[state.seen[lane]][word]
        is_plain = operation.ordering in PLAIN
        if first < (len(row) - 1 if is_plain else self._last_plain[word, state.rows[word]]):
            race = f"a plain {operation.kind} meets a store" if is_plain else "an access meets a plain store"
            raise Violation(f"data race: {race} that nothing orders before it")
        if operation.kind == STORE:
            return self._store(state, lane, word, operation)
        self._loads.add((word, lane, is_plain))
        if self._marks:
            state = self._marked(state, lane, word, is_plain)
        return self._load(state, lane, word, operation)

    def _last_plain_of(self, key: tuple[int, int]) -> int:
        """Index of the last plain store in a row, or 0: a lane that has seen it meets no unseen plain store."""
        word, number = key
        row = self._tables.rows[word][number]
        return max((index for index, message in enumerate(row) if message.is_plain), default=0)

    def _marked(self, state: State, lane: int, word: int, is_plain: bool) -> State:
        """The state with a new mark of the lane's load, if that is watched; only the lane has seen the mark."""
        mark = self._marks.get(word, {}).get((lane, is_plain))
        if mark is None:
            return state
        if len(self._tables.rows[mark][state.rows[mark]]) > 1:
            state = self._renumbered(state, self._forgettings[mark])
        rows = _with(state.rows, mark, self._tables.row(mark, (Message(0, ZERO), Message(0, ZERO))))
        seen = self._tables.replaced[state.seen[lane], mark, 1]
        return State(rows, _with(state.seen, lane, seen), state.read, state.sent, state.total)

    def _forgetting(self, mark: int) -> Renumbering:
        """The change by which no view holds the last mark any more, so that a new one can take its place."""

        def of_view(view: View) -> View:
            return (*view[:mark], 0, *view[mark + 1 :])

        return Renumbering(self._tables, of_view, (0,) * len(self._tables.rows))

    def _check_loads(self, state: State, lane: int, word: int, is_plain: bool) -> None:
        """Raise Violation where no order puts a watched load of another lane before this store of `lane`."""
        self._stores.add((word, lane, is_plain))
        view = self._tables.views[state.seen[lane]]
        for (other, loads_plainly), mark in self._marks.get(word, {}).items():
            is_race = other != lane and (is_plain or loads_plainly)
            if is_race and view[mark] < len(self._tables.rows[mark][state.rows[mark]]) - 1:
                raise Violation(
                    f"data race: a store meets a load of lane {other} that nothing orders before it"
                )

    def _fence(self, state: State, lane: int, operation: Operation) -> State:
        seen, sent, total = state.seen[lane], state.sent, state.total
        if operation.acquires:
            seen = self._join(seen, state.read[lane])
        if operation.ordering == "seq_cst":
            seen = total = self._join(seen, total)
        if operation.releases:
            sent = _with(sent, lane, seen)
        return State(state.rows, _with(state.seen, lane, seen), state.read, sent, total)

    def _store(self, state: State, lane: int, word: int, operation: Operation) -> list[Outcome]:
        is_plain = operation.ordering in PLAIN
        self._check_loads(state, lane, word, is_plain)
        row = self._tables.rows[word][state.rows[word]]
        view = state.seen[lane] if operation.releases else state.sent[lane]
        message = Message(operation.operands[0], self._tables.replaced[view, word, 0], False, is_plain)
        found: list[Outcome] = []
        for place in range(self._tables.views[state.seen[lane]][word] + 1, len(row) + 1):
            if place < len(row) and row[place].is_bound:
                continue
            remark = "" if place == len(row) else f"before {len(row) - place} newer"
            found.append((None, self._insert(state, lane, word, place, message), remark))
        return found

    def _load(self, state: State, lane: int, word: int, operation: Operation) -> list[Outcome]:
        """The outcomes of a load or read-modify-write; a compare_swap that fails is a load."""
        row = self._tables.rows[word][state.rows[word]]
        first = self._tables.views[state.seen[lane]][word]
        found: list[Outcome] = []
        for index in range(first, len(row)):
            message = row[index]
            age = "" if index == len(row) - 1 else f"with {len(row) - 1 - index} newer"
            seen, read = state.seen[lane], state.read[lane]
            if index > first:
                seen = self._tables.replaced[seen, word, index]
            if operation.acquires:
                seen = self._join(seen, message.view)
            else:
                read = self._join(read, message.view)
            met = state
            if seen != state.seen[lane] or read != state.read[lane]:
                all_seen, all_read = _with(state.seen, lane, seen), _with(state.read, lane, read)
                met = State(state.rows, all_seen, all_read, state.sent, state.total)
            if operation.kind == LOAD or _fails(operation, message.value):
                found.append((message.value, met, age))
                continue
            if index + 1 < len(row) and row[index + 1].is_bound:
                continue  # another read-modify-write has replaced this message
            self._check_loads(met, lane, word, False)
            own = met.seen[lane] if operation.releases else met.sent[lane]
            view = self._tables.replaced[self._join(message.view, own), word, 0]  # of a release sequence
            new = new_value(operation.name, operation.element, message.value, operation.operands)
            after = self._insert(met, lane, word, index + 1, Message(new, view, True))
            found.append((message.value, after, age))
        return found

    def _insert(self, state: State, lane: int, word: int, place: int, message: Message) -> State:
        """The state with `message` of `lane` at `place` in the word's row; indices from there on rise by one."""
        row = self._tables.rows[word][state.rows[word]]
        if place < len(row):
            change = self._spreadings[word, place]
            state = self._renumbered(state, change)
            message = message._replace(view=change.views[message.view])
            row = self._tables.rows[word][state.rows[word]]
        number = self._tables.row(word, (*row[:place], message, *row[place:]))
        seen = self._tables.replaced[state.seen[lane], word, place]
        rows = _with(state.rows, word, number)
        return State(rows, _with(state.seen, lane, seen), state.read, state.sent, state.total)

    def _join(self, view: int, other: int) -> int:
        if other == ZERO or view == other:
            return view
        return other if view == ZERO else self._tables.joined[view, other]

    def _trimming(self, key: tuple[tuple[int, ...], tuple[int, ...]]) -> Renumbering | None:
        """The change that `settle` makes for (views of the lanes, lanes alive), or None."""
        seen, alive = key
        views = [self._tables.views[seen[lane]] for lane in alive]
        first: View = tuple(map(min, *views)) if len(views) > 1 else views[0]
        return trimming(self._tables, first) if any(first) else None

    def _renumbered(self, state: State, change: Renumbering) -> State:
        views = change.views
        return State(
            tuple([memo[row] for memo, row in zip(change.rows, state.rows, strict=True)]),
            tuple([views[view] for view in state.seen]),
            tuple([views[view] for view in state.read]),
            tuple([views[view] for view in state.sent]),
            views[state.total],
        )


def _without_the_dead(state: State, alive: tuple[int, ...]) -> State:
    """The state without the views of lanes that have ended, which have no further effect."""

    def kept(views: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([view if lane in alive else ZERO for lane, view in enumerate(views)])

    return State(state.rows, kept(state.seen), kept(state.read), kept(state.sent), state.total)


def _fails(operation: Operation, value: Number) -> bool:
    return operation.name == "compare_swap" and bool(value != operation.operands[0])


def _with(items: tuple[int, ...], index: int, item: int) -> tuple[int, ...]:
    return (*items[:index], item, *items[index + 1 :])
