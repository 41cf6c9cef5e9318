"""The cost of sharing: the messages of the usual patterns of access, counted by stepping the table.

Patterns after Weber and Gupta, "Analysis of cache invalidation patterns in multiprocessors" (ASPLOS
1989). Counted are requests, replies, probes and answers to probes, as where no memory is mapped; where it is, a
request costs no message, and each probe is an atomic operation on a tag of another rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .machine import Access, Attribute, Line, access, is_owned, step, unused_line
from .protocol import Copy, Protocol, Request

RANKS = 8  # beside the home
_WARM_ROUNDS, _COUNTED_ROUNDS = 2, RANKS  # whole turns, where ranks take turns


class Give(NamedTuple):
    """A rank gives its copy back, or drops it, because it needs the slot."""

    rank: int


class Do(NamedTuple):
    """A rank accesses the line."""

    rank: int
    kind: Access


@dataclass(frozen=True)
class Pattern:
    """A pattern of sharing: the events of each round, by its number."""

    name: str
    description: str
    events: Callable[[int], Iterator[Do | Give]]


class Cost(NamedTuple):
    """Messages of a round, and how many of them carry the line."""

    messages: float
    lines: float


def cost(protocol: Protocol, pattern: Pattern, attribute: Attribute = Attribute.BACK) -> Cost:
    """The mean cost of a round of the pattern, after the first rounds."""
    line = unused_line(RANKS)
    messages = lines = 0
    for number in range(_WARM_ROUNDS + _COUNTED_ROUNDS):
        for event in pattern.events(number):
            line, more, more_lines = _happens(protocol, line, event, attribute)
            if number >= _WARM_ROUNDS:
                messages, lines = messages + more, lines + more_lines
    return Cost(messages / _COUNTED_ROUNDS, lines / _COUNTED_ROUNDS)


def _happens(protocol: Protocol, line: Line, event: Do | Give, attribute: Attribute) -> tuple[Line, int, int]:
    """The line after the event, the messages, and those that carry the line."""
    if isinstance(event, Do):
        done = access(protocol, line, event.rank, attribute, event.kind)
        return done.line, done.messages, done.lines
    holder = line.ranks[event.rank]
    if is_owned(holder.copy):
        given = step(protocol, line, Request.PUT_OWNED, event.rank)
        return given.line, given.messages, given.lines
    ranks = list(line.ranks)
    ranks[event.rank] = holder._replace(copy=Copy.I)
    return line._replace(ranks=tuple(ranks)), 0, 0


def _private(number: int) -> Iterator[Do | Give]:
    yield Do(0, Access.LOAD)
    yield Do(0, Access.STORE)
    yield Give(0)


def _read_mostly(number: int) -> Iterator[Do | Give]:
    yield Do(0, Access.STORE)
    for rank in range(RANKS):
        for _ in range(4):
            yield Do(rank, Access.LOAD)


def _migratory(number: int) -> Iterator[Do | Give]:
    yield Do(number % RANKS, Access.LOAD)
    yield Do(number % RANKS, Access.STORE)


def _producer_consumer(number: int) -> Iterator[Do | Give]:
    yield Do(0, Access.STORE)
    yield Do(1, Access.LOAD)


def _false_sharing(number: int) -> Iterator[Do | Give]:
    yield Do(0, Access.STORE)
    yield Do(1, Access.STORE)


PATTERNS = (
    Pattern("private", "one rank loads, stores, and needs the slot for something else", _private),
    Pattern("read-mostly", f"one rank stores, then all {RANKS} load four times", _read_mostly),
    Pattern("migratory", "a rank loads and stores, in the next round the next one", _migratory),
    Pattern("producer-consumer", "one rank stores, another one loads", _producer_consumer),
    Pattern("false sharing", "two ranks store in turn, to words of their own on one line", _false_sharing),
)
