"""Whether an order of operations on one word explains what each of them found: plain Python, to judge executions by."""

from __future__ import annotations

import functools

UNTOLD = "untold"  # what an operation of a killed lane found, if it was done at all


@functools.cache
def explains(histories: tuple, value: int, last: int | None) -> bool:
    """Whether some order of the lanes' operations, each lane's in its own, finds what they found from `value` on, and
    leaves `last`, if that is known. What a killed lane did may end anywhere."""
    if all(not history or history[0][1] == UNTOLD for history in histories) and last in (value, None):
        return True
    for lane, history in enumerate(histories):
        if history:
            (operation, found), *rest = history
            after = effect(operation, value if found == UNTOLD else found, value)
            others = (*histories[:lane], tuple(rest), *histories[lane + 1 :])
            if after is not None and explains(others, after, last):
                return True
    return False


def effect(operation: tuple, found: int, value: int) -> int | None:
    """What a line that holds `value` holds after the operation; None where it cannot have found what it did."""
    if operation[0] == "store":
        return operation[2]
    if found != value:
        return None
    if operation[0] == "add":
        return value + operation[2]
    if operation[0] == "swap" and value == operation[2]:
        return operation[3]
    return value
