"""A litmus test as plain data: the steps of its lanes on a few words, and its forbidden and allowed ends."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """The syntax of an operation: whether it names a place, the numbers behind it, and whether it gives a value."""

    has_place: bool
    operands: tuple[str, ...]
    gives: bool


FORMS = {
    "load": Form(True, (), True),
    "load_acquire": Form(True, (), True),
    "store": Form(True, ("value",), False),
    "store_release": Form(True, ("value",), False),
    "fetch_add": Form(True, ("value",), True),
    "exchange": Form(True, ("value",), True),
    "compare_swap": Form(True, ("expected", "desired"), True),
    "fence": Form(False, (), False),
}
RELATIONS: dict[str, Callable[[int, int], bool]] = {"=": operator.eq, "!=": operator.ne}


@dataclass(frozen=True)
class Place:
    """A word of 8 bytes. Places of one `line` lie beside each other, in the order of `word`."""

    name: str
    start: int
    line: int
    word: int = 0


@dataclass(frozen=True)
class Step:
    """One operation of a lane; its result goes to `register`, "" for none."""

    operation: str
    place: str = ""
    operands: tuple[int, ...] = ()
    register: str = ""


@dataclass(frozen=True)
class Term:
    """A comparison of a register, or of a place's final value, with a number."""

    name: str
    relation: str
    value: int


@dataclass(frozen=True)
class Condition:
    """The conjunction of its terms."""

    terms: tuple[Term, ...]

    def holds(self, end: Mapping[str, int]) -> bool:
        """Whether every term holds at this end, which is values by name."""
        return all(RELATIONS[term.relation](end[term.name], term.value) for term in self.terms)

    def __str__(self) -> str:
        return " and ".join(f"{term.name} {term.relation} {term.value}" for term in self.terms)


@dataclass(frozen=True)
class Litmus:
    """A test. No end may satisfy a `forbidden` condition; weak memory may show ends that satisfy an `allowed` one."""

    name: str
    title: str
    places: tuple[Place, ...]
    lanes: tuple[tuple[Step, ...], ...]
    forbidden: tuple[Condition, ...] = ()
    allowed: tuple[Condition, ...] = ()

    @property
    def num_lines(self) -> int:
        """Lines that one instance of the test uses."""
        return 1 + max(place.line for place in self.places)

    def registers(self, lane: int) -> tuple[str, ...]:
        """Names of a lane's registers, in the order of its steps."""
        return tuple(step.register for step in self.lanes[lane] if step.register)

    @property
    def watched(self) -> tuple[Place, ...]:
        """The places that a condition names; their final values are part of an end."""
        asked = {term.name for condition in self.forbidden + self.allowed for term in condition.terms}
        return tuple(place for place in self.places if place.name in asked)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the values of an end, in order: the registers lane by lane, then the watched places."""
        names = [name for lane in range(len(self.lanes)) for name in self.registers(lane)]
        return (*names, *(place.name for place in self.watched))

    def violated(self, end: Mapping[str, int]) -> Condition | None:
        """The first forbidden condition that this end satisfies, or None."""
        return next((condition for condition in self.forbidden if condition.holds(end)), None)
