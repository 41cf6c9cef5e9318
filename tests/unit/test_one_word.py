"""One word, one thing: a public constant of a module has one value in the whole package.

Public is what another module may import: names in capitals without a leading underscore. A name like `_TIMEOUT_S`
means something in its own module only, and may be another's too.
"""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import floors

from .test_layers import MODULES

# Names with several values on purpose, each with its reason.
SEVERAL_VALUES = {
    "OPERATIONS": "what every module of bench/peers says of itself, read by bench/peers/__init__.py",
}


def constants_of(module: str) -> Iterator[str]:
    """Names of the public constants that the source of `module` assigns at its top level."""
    for statement in ast.parse(MODULES[module].read_text()).body:
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        for target in targets:
            for name in getattr(target, "elts", [target]):
                if isinstance(name, ast.Name) and name.id.isupper() and name.id[0] != "_":
                    yield name.id


def places_of_constants() -> dict[str, list[str]]:
    """Of each constant the modules that assign it."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        for name in constants_of(module):
            if module not in places[name]:
                places[name].append(module)
    return places


def values(places: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Of each constant of several modules its value in each, but for modules that need a package that is missing."""
    found: dict[str, dict[str, Any]] = {}
    for name, modules in places.items():
        if len(modules) > 1:
            imported = {module: imported_if_possible(module) for module in modules}
            found[name] = {where: getattr(module, name) for where, module in imported.items() if module}
    return found


def imported_if_possible(module: str) -> ModuleType | None:
    """The module; None where it needs a package that is optional and not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        assert str(error.name).partition(".")[0] in floors.OPTIONAL_PACKAGES, module
        return None


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are one: the same object, or equal, as numbers, texts and collections of them are."""
    plain = (int, float, str, bytes, tuple, list, dict, set, frozenset, range)
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and bool(one == other))


def of_several_values(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The names that mean different things in different modules."""
    return {
        name: by_module
        for name, by_module in found.items()
        if any(not is_same(value, next(iter(by_module.values()))) for value in by_module.values())
    }


def test_a_constant_has_one_value() -> None:
    places = places_of_constants()
    assert len(places) > 500  # what is looked at is the package, not a part of it
    several = of_several_values(values(places))
    told = [
        f"{name}: " + ", ".join(f"{module} {value!r:.40}" for module, value in found.items())
        for name, found in sorted(several.items())
        if name not in SEVERAL_VALUES
    ]
    assert not told, "rename all but one, or all:\n" + "\n".join(told)
    assert several.keys() == SEVERAL_VALUES.keys(), "a name is excused that has one value now"


def test_a_name_with_two_values_is_found() -> None:
    found = {"BLOCK_LOG2": {"a": 10, "b": 21}, "WORD": {"a": 8, "b": 8}, "TABLE": {"a": {1: 2}, "b": {1: 3}}}
    assert of_several_values(found).keys() == {"BLOCK_LOG2", "TABLE"}
