"""Weak memory: what C++ and PTX allow short of promises, as an operational model that can be searched.

Each word has the list of its messages, in modification order. A lane has views: for each word the oldest
message that it may still read. A load takes any message from its view on; a store goes anywhere behind it, but
never between a message and the read-modify-write that has replaced it. A release puts the lane's view into the
message, an acquire takes it over; a fence does the same for the relaxed accesses before or behind it, and a
sequentially consistent fence joins views with all earlier ones.

The model is that of Kang et al., "A promising semantics for relaxed-memory concurrency" (POPL 2017), without
promises, with the fences of Lahav et al., "Repairing sequential consistency in C/C++11" (PLDI 2017): coherence,
release sequences, no values out of thin air, no load buffering of relaxed accesses.

A plain access must not race: it finds the newest message in its lane's view, else that is a violation. A plain
load before a racing store is found in the executions where the store comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...kernels.elements import Number
from ...kernels.machine import new_value
from .operation import FENCE, LOAD, STORE, Operation
from .places import Places, Violation

View = tuple[int, ...]  # by word: index of a message
PLAIN = ("plain", "stream")


class Message(NamedTuple):
    """A store to a word. `view` None: it publishes nothing. `is_bound`: by a read-modify-write of the one before."""

    value: Number
    view: View | None
    is_bound: bool


class State(NamedTuple):
    """`seen`: what lanes may not read behind; `read`: what relaxed loads have met, for an acquire fence;
    `sent`: what a release fence lets relaxed stores publish; `total`: of all sequentially consistent fences."""

    messages: tuple[tuple[Message, ...], ...]
    seen: tuple[View, ...]
    read: tuple[View | None, ...]
    sent: tuple[View | None, ...]
    total: View


class Weak:
    """Words with all their messages. See search.Memory for what the methods promise."""

    name = "weak"

    def __init__(self, initial: Mapping[int, Number]):
        self._places = Places(initial)

    def start(self, num_lanes: int) -> State:
        """Every word has the message that it was given, which all lanes have seen."""
        zero = (0,) * len(self._places.initial)
        messages = tuple((Message(value, None, False),) for value in self._places.initial)
        return State(messages, (zero,) * num_lanes, (None,) * num_lanes, (None,) * num_lanes, zero)

    def values(self, state: State) -> dict[int, Number]:
        """By address, the last in modification order."""
        return {a: m[-1].value for a, m in zip(self._places.addresses, state.messages, strict=True)}

    def is_local(self, operation: Operation) -> bool:
        """Stores and local fences may go first: where a store lands is chosen in any case, and it changes nothing
        for those who do not read it."""
        return operation.kind in (STORE, FENCE) and operation.ordering != "seq_cst"

    def settle(self, state: State, alive: list[int]) -> State:
        """Without the messages that nobody can read any more; views count from the oldest that is left."""
        kept = [state.seen[lane] for lane in alive]
        first = tuple(
            min((view[word] for view in kept), default=len(messages) - 1)
            for word, messages in enumerate(state.messages)
        )
        state = _without_the_dead(state, alive)
        if not any(first):
            return state
        zero = (0,) * len(first)

        def moved(view: View) -> View:
            return tuple([a - b if a > b else 0 for a, b in zip(view, first, strict=True)])

        def moved_or_none(view: View | None) -> View | None:
            if view is None:
                return None
            new = moved(view)
            return None if new == zero else new

        messages = tuple(
            tuple(
                Message(message.value, moved_or_none(message.view), message.is_bound and index > 0)
                for index, message in enumerate(all_of_word[start:])
            )
            for all_of_word, start in zip(state.messages, first, strict=True)
        )
        read, sent = tuple(map(moved_or_none, state.read)), tuple(map(moved_or_none, state.sent))
        return State(messages, tuple(map(moved, state.seen)), read, sent, moved(state.total))

    def steps(self, state: State, lane: int, operation: Operation) -> Iterator[tuple[Any, State, str]]:
        """Every message that a load may take, every place where a store may land."""
        if operation.kind == FENCE:
            yield None, _fence(state, lane, operation), ""
            return
        word = self._places.of(operation)
        if operation.ordering in PLAIN:
            _check_race(state, lane, word, operation)
        if operation.kind == STORE:
            yield from _store(state, lane, word, operation)
        else:
            yield from _load(state, lane, word, operation)


def _without_the_dead(state: State, alive: list[int]) -> State:
    """With no views of lanes that have ended: what they had seen decides nothing any more."""
    zero = (0,) * len(state.messages)
    for lane in set(range(len(state.seen))) - set(alive):
        seen, read, sent = (
            _with(state.seen, lane, zero),
            _with(state.read, lane, None),
            _with(state.sent, lane, None),
        )
        state = state._replace(seen=seen, read=read, sent=sent)
    return state


def _fence(state: State, lane: int, operation: Operation) -> State:
    seen, sent, total = state.seen[lane], state.sent, state.total
    if operation.acquires:
        seen = _join(seen, state.read[lane])
    if operation.ordering == "seq_cst":
        seen = total = _join(seen, total)
    if operation.releases:
        sent = _with(sent, lane, seen)
    return state._replace(seen=_with(state.seen, lane, seen), sent=sent, total=total)


def _check_race(state: State, lane: int, word: int, operation: Operation) -> None:
    if state.seen[lane][word] < len(state.messages[word]) - 1:
        raise Violation(f"data race: a plain {operation.kind} meets a store that nothing orders before it")


def _store(state: State, lane: int, word: int, operation: Operation) -> Iterator[tuple[Any, State, str]]:
    seen, messages = state.seen[lane], state.messages[word]
    view = seen if operation.releases else state.sent[lane]
    for place in range(seen[word] + 1, len(messages) + 1):
        if place < len(messages) and messages[place].is_bound:
            continue
        message = Message(operation.operands[0], _published(view, word), False)
        after = _insert(state, word, place, message)
        after = after._replace(seen=_with(after.seen, lane, _with(after.seen[lane], word, place)))
        yield None, after, "" if place == len(messages) else f"before {len(messages) - place} newer"


def _load(state: State, lane: int, word: int, operation: Operation) -> Iterator[tuple[Any, State, str]]:
    """Loads and read-modify-writes; of the latter one that changes nothing is a load."""
    messages = state.messages[word]
    for index in range(state.seen[lane][word], len(messages)):
        message = messages[index]
        age = "" if index == len(messages) - 1 else f"with {len(messages) - 1 - index} newer"
        seen, read = _with(state.seen[lane], word, index), state.read
        if operation.acquires:
            seen = _join(seen, message.view)
        elif message.view is not None:
            read = _with(read, lane, _join(message.view, read[lane]))
        met = state._replace(seen=_with(state.seen, lane, seen), read=read)
        if operation.kind == LOAD or _fails(operation, message.value):
            yield message.value, met, age
            continue
        if index + 1 < len(messages) and messages[index + 1].is_bound:
            continue  # another one has replaced this message
        own = seen if operation.releases else state.sent[lane]
        view = own if message.view is None else _join(message.view, own)  # of a release sequence
        new = new_value(operation.name, operation.element, message.value, operation.operands)
        after = _insert(met, word, index + 1, Message(new, _published(view, word), True))
        after = after._replace(seen=_with(after.seen, lane, _with(after.seen[lane], word, index + 1)))
        yield message.value, after, age


def _fails(operation: Operation, value: Number) -> bool:
    return operation.name == "compare_swap" and bool(value != operation.operands[0])


def _insert(state: State, word: int, place: int, message: Message) -> State:
    """With `message` at `place` of the word's messages; views behind it count one more."""
    messages = state.messages
    if place < len(messages[word]):

        def moved(view: View | None) -> View | None:
            return view if view is None or view[word] < place else _with(view, word, view[word] + 1)

        messages = tuple(
            tuple(m._replace(view=moved(m.view)) for m in all_of_word) for all_of_word in messages
        )
        message = message._replace(view=moved(message.view))
        state = State(
            messages,
            tuple(moved(view) or () for view in state.seen),
            tuple(map(moved, state.read)),
            tuple(map(moved, state.sent)),
            moved(state.total) or (),
        )
    row = messages[word]
    return state._replace(messages=_with(messages, word, (*row[:place], message, *row[place:])))


def _published(view: View | None, word: int) -> View | None:
    """A view as a message carries it: without the message itself, None where it says nothing."""
    if view is None:
        return None
    view = _with(view, word, 0)
    return view if any(view) else None


def _join(view: View, other: View | None) -> View:
    if other is None or view is other:
        return view
    return tuple([a if a > b else b for a, b in zip(view, other, strict=True)])


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])
