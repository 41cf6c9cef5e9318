"""A litmus test under the model checker: all its ends in sequential and in weak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...kernels.intrinsics import scalar
from ...kernels.intrinsics.elements import Number
from ..kernel import Program, Result, Verdict
from .litmus import Condition, Litmus, Place

LINE_BYTES, WORD_BYTES = 128, 8
_MODELS = ("sequential", "weak")

INTRINSICS: dict[str, Callable[..., Any]] = {
    "load": scalar.load_relaxed_i64,
    "load_acquire": scalar.load_acquire_i64,
    "store": scalar.store_relaxed_i64,
    "store_release": scalar.store_release_i64,
    "fetch_add": scalar.fetch_add_i64,
    "exchange": scalar.exchange_i64,
    "compare_swap": scalar.compare_swap_i64,
    "fence": scalar.fence_seq_cst,
}


@dataclass(frozen=True)
class Checked:
    """A test searched in one memory model; `unseen`: its allowed conditions that no end in weak memory satisfies."""

    verdict: Verdict
    ends: frozenset[tuple[int, ...]]  # of litmus.observed
    unseen: tuple[Condition, ...]

    @property
    def passes(self) -> bool:
        """Whether the search is complete, no end is forbidden, and every allowed condition was seen."""
        return self.verdict.result is Result.EXHAUSTED and not self.unseen


def address_of(place: Place) -> int:
    """The address of a place in the model; never 0, which is no address."""
    return (1 + place.line) * LINE_BYTES + place.word * WORD_BYTES


def program_of(litmus: Litmus, models: tuple[str, ...] = _MODELS) -> Program:
    """The test as a program for the model checker; a forbidden end is a bug."""
    addresses = {place.name: address_of(place) for place in litmus.places}
    lanes = []
    for steps in litmus.lanes:
        actions = tuple(
            (
                INTRINSICS[step.operation],
                _arguments(addresses, step.place, step.operands),
                bool(step.register),
            )
            for step in steps
        )
        lanes.append((_lane, actions))

    def final(results: Sequence[Any], memory: Mapping[int, Number]) -> str | None:
        broken = litmus.violated(_end(litmus, results, memory))
        return None if broken is None else f"forbidden: {broken}"

    memory = {address_of(place): place.start for place in litmus.places}
    names = {address: name for name, address in addresses.items()}
    return Program(lanes, memory, final, models=models, names=names)


def check(litmus: Litmus, models: tuple[str, ...] = _MODELS) -> Iterator[Checked]:
    """Search the test in each of `models`, the simple one first, until one shows a forbidden end."""
    for verdict in program_of(litmus, models).check():
        found = [_end(litmus, results, memory) for results, memory in verdict.outcomes]
        may_show = litmus.allowed if verdict.memory == "weak" else ()
        unseen = tuple(one for one in may_show if not any(one.holds(end) for end in found))
        ends = frozenset(tuple(end[name] for name in litmus.observed) for end in found)
        yield Checked(verdict, ends, unseen)


def _arguments(addresses: Mapping[str, int], place: str, operands: tuple[int, ...]) -> tuple[int, ...]:
    return (addresses[place], 0, *operands) if place else ()


def _lane(actions: tuple[tuple[Callable[..., Any], tuple[int, ...], bool], ...]) -> tuple[Number, ...]:
    """Do `actions` in order; returns the values of the registers."""
    kept: tuple[Number, ...] = ()
    index = 0
    while index < len(actions):
        intrinsic, arguments, is_kept = actions[index]
        value = intrinsic(*arguments)
        if is_kept:
            kept += (value,)
        index += 1
    return kept


def _end(litmus: Litmus, results: Sequence[Any], memory: Mapping[int, Number]) -> dict[str, int]:
    values = [int(value) for kept in results for value in kept]
    values += [int(memory[address_of(place)]) for place in litmus.watched]
    return dict(zip(litmus.observed, values, strict=True))
