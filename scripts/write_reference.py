"""Writes docs/reference.md from the tables of the source: `make docs`. A test holds it current."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path

from floors import FLOORS, MAX_LINES

from umem import config, errors
from umem.bench.cases.registry import all_cases
from umem.kernels.intrinsics.table import TABLE, Intrinsic
from umem.world.spec import KINDS, TRANSPORTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def cell(value: object) -> str:
    """Text that does not end a table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def first_sentence(thing: object) -> str:
    """The effect, as the first line of a docstring states it."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def floors() -> str:
    rows = [
        (floor.number, " ".join(f"`{name}`" for name in floor.modules), floor.purpose)
        for floor in reversed(FLOORS)
    ]
    return (
        "A module imports only from floors below its own, or from names that stand before it on its floor.\n"
        f"A file has at most {MAX_LINES} lines. (tests/unit/test_layers.py)\n\n"
        + table(("floor", "modules, lowest first", "purpose"), rows)
    )


def settings() -> str:
    lines = [line for line in (config.__doc__ or "").splitlines() if line.startswith("|")]
    return "Environment variables; options of the command line come before them.\n\n" + "\n".join(lines)


def worlds() -> str:
    rows = [(f"`{kind}`", meaning, f"`{TRANSPORTS[kind]}`") for kind, meaning in KINDS.items()]
    return table(("world", "meaning", "UCX transports"), rows)


def error_types() -> str:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.UmemError) and kind is not errors.UmemError
    ]
    rows = []
    for kind in sorted(kinds, key=lambda kind: inspect.getsourcelines(kind)[1]):
        parents = ", ".join(f"`{parent.__name__}`" for parent in kind.__bases__)
        rows.append((f"`{kind.__name__}`", parents, first_sentence(kind)))
    return table(("error", "is a", "when"), rows)


def intrinsics() -> str:
    """One line for all types of an intrinsic."""
    groups: dict[str, list[Intrinsic]] = {}
    for intrinsic in TABLE.values():
        groups.setdefault(stem(intrinsic), []).append(intrinsic)
    rows = []
    for name, members in groups.items():
        types = " ".join(member.element.name for member in members if member.element and "_T" in name)
        first = members[0]
        scope = first.scope if first.ordering not in (None, "plain", "stream") else ""
        rows.append((f"`{name}`", types, first.ordering or "", scope, " ".join(first.targets), effect(first)))
    return table(("intrinsic", "T", "ordering", "scope", "targets", "effect"), rows)


def stem(intrinsic: Intrinsic) -> str:
    """The name that all types of an intrinsic share: `load_acquire_T_gpu` for load_acquire_i64_gpu."""
    scope = "" if intrinsic.scope == "sys" else f"_{intrinsic.scope}"
    name = intrinsic.name.removesuffix(scope)
    suffix = f"_{intrinsic.element.name}" if intrinsic.element else ""
    return name.removesuffix(suffix) + "_T" + scope if suffix and name.endswith(suffix) else name + scope


def effect(intrinsic: Intrinsic) -> str:
    """Its docstring, with T where the type stands."""
    said, element = first_sentence(intrinsic.function), intrinsic.element
    if element is None or "_T" not in stem(intrinsic):
        return said
    return said.replace(element.name, "T").replace(f"index * {element.num_bytes}", "index * sizeof(T)")


def cases() -> str:
    return table(("case", "what it does"), [(f"`{case.key}`", case.description) for case in all_cases()])


SECTIONS = (
    ("Floors", floors),
    ("Settings", settings),
    ("Worlds", worlds),
    ("Errors", error_types),
    ("Intrinsics", intrinsics),
    ("Cases of `umem bench`", cases),
)


def page() -> str:
    """The whole page."""
    parts = ["# Reference", "Written by `make docs` from the tables in the source; do not edit."]
    for title, write in SECTIONS:
        parts += [f"## {title}", write()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
