"""Why a search does not end: a lane that waits and meanwhile counts is in a new state at every turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .bytecode import places
from .lane import Lane, LaneState

MIN_STATES = 16  # of a lane at one place, before they are called a count
SHARE = 8  # of them that only the count tells apart


def growth(lanes: Sequence[Lane], sizes: Sequence[int]) -> str:
    """Which lanes have found new states since they had `sizes`, and by what; "" where one of them does not count."""
    found = []
    for number, (lane, size) in enumerate(zip(lanes, sizes, strict=True)):
        if len(lane.states) > size:
            counts = _counts(number, lane.states[size:])
            if not counts:
                return ""
            found.append(counts)
    return f"{'; '.join(found)}: a wait whose locals stay the same is one state" if found else ""


def _counts(lane: int, new: Sequence[LaneState]) -> str:
    """Where most of a lane's new states are, and the locals by which they differ."""
    by_place = defaultdict(list)
    for state in new:
        by_place[tuple((code, offset) for code, offset, _ in state.frames)].append(state)
    states = max(by_place.values(), key=len)
    names = _counting(states)
    if not names:
        return ""
    return (
        f"lane {lane} comes to a new state at every turn of {states[0].where[0]}, by {' and '.join(names)}"
        f" ({len(states):,} so far)"
    )


def _counting(states: Iterable[LaneState]) -> list[str]:
    """The locals by which most of these states differ, which all are at one place; none where others do too."""
    values = [_locals(state) for state in states]
    num_values = {name: len({found[name] for found in values}) for name in values[0]}
    most = max(num_values.values(), default=0)
    counting = [name for name, number in num_values.items() if 2 * number > most]
    others = {tuple(value for name, value in found.items() if name not in counting) for found in values}
    if most < MIN_STATES or SHARE * len(others) > len(values):
        return []
    named = [name for name in counting if not name[0].startswith(".")]
    return [f"`{name}` of {function}" for name, function in named] or ["a value inside the expression"]


def _locals(state: LaneState) -> dict[tuple[str, str], object]:
    """Those that decide the future, by name and function; of a function that calls itself the innermost ones."""
    found: dict[tuple[str, str], object] = {}
    for code, offset, values in state.frames:
        for name, value in zip(places(code)[offset].live, values, strict=True):
            found.setdefault((name, code.co_name), value)
    return found
