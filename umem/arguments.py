"""Numbers that programs hand over, checked: counts, sizes, indices, ranks, homes, shapes.

Python's and NumPy's integers count, of every width; a bool, a float or a string is no number of anything.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from .errors import ArgumentTypeError, ConfigError


def whole(value: Any, what: str, minimum: int | None = None) -> int:
    """`value` as an int. Raises ArgumentTypeError where it is no integer, ConfigError below `minimum`."""
    if value.__class__ is int and minimum is None:
        return value  # nearly always: accesses come this way
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{what}={value!r} is a {type(value).__name__}, not a whole number") from None
    if minimum is not None and number < minimum:
        raise ConfigError(f"{what}={number} is less than {minimum}")
    return number


def rank_of(value: Any, num_ranks: int) -> int:
    """`value` as a rank of a world of `num_ranks`. Raises ArgumentTypeError, ConfigError."""
    rank = whole(value, "rank")
    if not 0 <= rank < num_ranks:
        raise ConfigError(f"rank {rank} is not between 0 and {num_ranks - 1}")
    return rank


def home_of(value: Any) -> int | str:
    """`value` as the home of memory: a word, or the number of a rank."""
    return str(value) if isinstance(value, str) else whole(value, "home")


def dimensions(shape: int | Iterable[int]) -> tuple[int, ...]:
    """`shape` as a tuple of ints, none of them negative."""
    try:
        extents = tuple(shape)  # type: ignore[arg-type]
    except TypeError:
        extents = (shape,)  # type: ignore[assignment]
    dims = tuple(whole(extent, "shape") for extent in extents)
    if any(extent < 0 for extent in dims):
        raise ConfigError(f"shape {dims} has a negative extent")
    return dims
