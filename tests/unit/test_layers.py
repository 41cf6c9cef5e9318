"""The house stands: floors, no cycles, one reader of the environment, light imports, short files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import floors
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"umem": ROOT / "umem", "umem.kernels": ROOT / "kernels", "umem.bench": ROOT / "bench"}
SOURCE_SUFFIXES = {".py", ".c", ".h", ".md", ".toml", ".sh", ".txt", ""}


@dataclass(frozen=True)
class Import:
    """One import statement: `importer` names `target`; `lazy` where it runs only when a function does."""

    importer: str
    target: str
    line: int
    lazy: bool
    types_only: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its import name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[Import]:
    """Every import in the source of `module`, names from inside umem resolved to modules."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool, types_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, known(alias.name), child.lineno, lazy, types_only)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    base = ".".join([*package.split(".")[: len(package.split(".")) - child.level + 1], base])
                    base = base.rstrip(".")
                for alias in child.names:
                    yield Import(module, known(f"{base}.{alias.name}"), child.lineno, lazy, types_only)
            else:
                in_function = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, in_function, types_only or is_type_checking(child))

    yield from visit(ast.parse(path.read_text()), False, False)


def known(name: str) -> str:
    """The module that `name` lies in: itself, or the longest prefix of it that is one of ours."""
    while name.startswith("umem.") and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


ALL_IMPORTS = [one for module in MODULES for one in imports_of(module)]
INSIDE = [one for one in ALL_IMPORTS if one.target.split(".")[0] == "umem" and not one.types_only]


def same_entry(a: str, b: str) -> bool:
    return floors.place(a) == floors.place(b)


def test_every_module_has_a_floor():
    homeless = [module for module in MODULES if floors.place(module) is None]
    assert not homeless, f"say in scripts/floors.py where these belong: {homeless}"


def test_every_name_in_the_table_is_a_module():
    missing = [name for floor in floors.FLOORS for name in floor.modules if name not in MODULES]
    assert not missing, f"scripts/floors.py names modules that do not exist: {missing}"


def test_imports_go_down():
    upward = [
        f"{MODULES[one.importer].relative_to(ROOT)}:{one.line} imports {one.target}"
        for one in INSIDE
        if not same_entry(one.importer, one.target) and floors.place(one.target) > floors.place(one.importer)
    ]
    assert not upward, "imports from a higher floor:\n" + "\n".join(upward)


def test_no_import_cycles():
    check_acyclic(one for one in INSIDE if not one.lazy)


def test_no_circles_of_reading():
    """Imports inside functions and those for types count too: whoever reads a module goes down, and never around."""
    check_acyclic(one for one in ALL_IMPORTS if one.target.split(".")[0] == "umem")


def check_acyclic(imports: Iterable[Import]) -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for one in imports:
        if one.target != one.importer:
            graph[one.importer].add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("modules import each other in a circle: " + " -> ".join(error.args[1]))


def test_only_config_touches_the_environment():
    offenders = []
    for module, path in MODULES.items():
        if module == floors.ENVIRONMENT_READER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "os.environ",
                "os.environb",
                "os.getenv",
                "os.putenv",
                "os.unsetenv",
            )
            imported = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and any("env" in alias.name for alias in node.names)
            )
            if named or imported:
                offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not offenders, f"read the environment through umem.config: {offenders}"


def test_optional_packages_are_imported_where_they_are_used():
    eager = [
        f"{MODULES[one.importer].relative_to(ROOT)}:{one.line} imports {one.target}"
        for one in ALL_IMPORTS
        if one.target.split(".")[0] in floors.OPTIONAL_PACKAGES
        and not one.lazy
        and not one.types_only
        and floors.place(one.importer) < (floors.OPTIONAL_FROM_FLOOR, 0)
    ]
    assert not eager, "import these inside the function that needs them:\n" + "\n".join(eager)


def test_no_code_waits_by_sleeping():
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for module, path in MODULES.items()
        if module not in floors.MAY_SLEEP
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    ]
    assert not offenders, f"wait on a condition, a descriptor or a process instead: {offenders}"


def fresh_interpreter(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_import_umem_is_light():
    loaded = fresh_interpreter("import sys, umem; print(*sys.modules)").split()
    heavy = sorted(set(loaded) & set(floors.NOT_LOADED_BY_IMPORT))
    assert not heavy, f"`import umem` loads {heavy}"


def test_importing_all_lower_floors_loads_no_transport_and_no_torch():
    low = [module for module in MODULES if floors.place(module) < (floors.OPTIONAL_FROM_FLOOR, 0)]
    out = fresh_interpreter(
        f"import importlib, pathlib, sys\nfor name in {low!r}: importlib.import_module(name)\n"
        "maps = pathlib.Path('/proc/self/maps').read_text()\n"
        "print(*[name for name in ('libucp', 'libucs', 'libmpi', 'libcuda.so') if name in maps])\n"
        "print(*sys.modules)"
    )
    libraries, packages = out.splitlines()
    assert not libraries, f"importing umem's modules loads {libraries}"
    assert not set(packages.split()) & floors.OPTIONAL_PACKAGES


def sources() -> list[Path]:
    """Every text file that we wrote."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in ("umem", "kernels", "bench", "tests", "scripts", "docs", ".ci"):
        found += (ROOT / folder).rglob("*")
    return [
        path
        for path in found
        if path.is_file() and path.suffix in SOURCE_SUFFIXES and "__pycache__" not in path.parts
    ]


def test_files_are_short():
    code = [path for path in sources() if path.suffix in (".py", ".c", ".h", "")]
    num_lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code}
    long = {path: lines for path, lines in num_lines.items() if lines > floors.MAX_LINES}
    assert not long, f"one idea a file, at most {floors.MAX_LINES} lines: {long}"


def test_no_file_names_a_place_on_one_machine():
    # A path under somebody's home or work folder would be true on one machine only.
    private = re.compile(r"(?<![\w.])/(?:root|home|Users|work)/[\w.-]+")
    named = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in sources()
        if path != Path(__file__)
        for match in private.finditer(path.read_text())
    }
    assert not named, f"paths of one machine: {sorted(named)}"
