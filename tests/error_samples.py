"""One instance of every error of umem, made by its constructor's signature: new classes are found by themselves."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_origin, get_type_hints

from umem import errors


def kinds() -> list[type[errors.UmemError]]:
    """Every class of umem/errors.py."""
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    return [kind for kind in found if issubclass(kind, errors.UmemError)]


def sample(kind: type[errors.UmemError]) -> errors.UmemError:
    """An error of this kind with every argument, an attribute of its own, a note and a cause."""
    if inspect.isfunction(kind.__init__):
        hints = get_type_hints(kind.__init__)
        error = kind(*(_value(hints[name]) for name in inspect.signature(kind).parameters))
    else:
        error = kind("what happened, and the way out")
    error.seen_by = "a test"  # type: ignore[attr-defined]
    error.add_note("a note")
    error.__cause__ = KeyError("the cause")
    return error


def told_by(error: BaseException) -> tuple[object, ...]:
    """All that a copy of an error must have in common with it."""
    return type(error), error.args, str(error), dict(vars(error)), repr(error.__cause__)


def _value(hint: Any) -> object:
    """Something that an argument of this type may be."""
    if get_origin(hint) is tuple:
        return tuple(map(_value, get_args(hint)))
    if hint is int or int in get_args(hint):
        return 3
    return "what" if hint is str else ("any", "thing")
