"""The table of all cases. A module of bench/cases registers its own when it is imported."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

from umem.errors import UnknownName

from ..harness.case import Case

_CASES: dict[str, type[Case]] = {}


def register(case: type[Case]) -> type[Case]:
    """Class decorator: make `case` known under its key."""
    assert case.key not in _CASES, f"two cases are called {case.key}"
    _CASES[case.key] = case
    return case


def all_cases() -> list[type[Case]]:
    """Every case, in the order of their keys."""
    from .. import cases

    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return [_CASES[key] for key in sorted(_CASES)]


def select(names: Iterable[str]) -> list[type[Case]]:
    """The cases that `names` ask for: a key (latency.line) or a family (latency); all for no names.

    Raises UnknownName for a name that is neither.
    """
    known = all_cases()
    wanted: list[type[Case]] = []
    for name in names:
        found = [case for case in known if case.key == name or case.key.startswith(name + ".")]
        if not found:
            raise UnknownName("case", name, families(known) + [case.key for case in known if "." in case.key])
        wanted += [case for case in found if case not in wanted]
    return wanted or known


def families(known: Iterable[type[Case]]) -> list[str]:
    """First part of every key, each once."""
    return list(dict.fromkeys(case.key.partition(".")[0] for case in known))


def find(key: str) -> type[Case]:
    """The case with exactly this key. Raises UnknownName."""
    for case in all_cases():
        if case.key == key:
            return case
    raise UnknownName("case", key, [case.key for case in all_cases()])
