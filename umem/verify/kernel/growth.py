"""The reason of most searches that do not end: a lane that counts while it waits has a new state at every turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .bytecode import places
from .lane import Lane, LaneState

MIN_STATES = 16  # new states of a lane at one place, before they are called a count
SHARE = 8  # at most one in so many of these states may differ by more than the counting locals


def growth(lanes: Sequence[Lane], sizes: Sequence[int]) -> str:
    """A sentence that names, for each lane with more states than in `sizes`, the locals that count while it waits.

    "" where no lane has grown, or one has grown otherwise.
    """
    found = []
    for number, (lane, size) in enumerate(zip(lanes, sizes, strict=True)):
        if len(lane.states) > size:
            counts = _counts(number, lane.states[size:])
            if not counts:
                return ""
            found.append(counts)
    return f"{'; '.join(found)}: a wait whose locals stay the same is one state" if found else ""


def _counts(lane: int, new: Sequence[LaneState]) -> str:
    """A clause on the place of most of a lane's new states, and the locals that count there; "" where none do."""
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
    """The locals that count over `states`, all at one place; none where the states differ by other locals too."""
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
    """The live locals of a lane's state, by name and function; of a recursive function those of its innermost frame."""
    found: dict[tuple[str, str], object] = {}
    for code, offset, values in state.frames:
        for name, value in zip(places(code)[offset].live, values, strict=True):
            found.setdefault((name, code.co_name), value)
    return found
