"""Where a kernel may stop, and which locals are still read there: the same in every Python that is supported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from umem.verify.kernel import bytecode, statements

VERSIONS = ("3.11", "3.12", "3.13")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"

# No comprehensions: they are functions of their own in 3.11, and part of the function since.
LOOK = f"""
import ast, importlib.util, json, sys

def load_file(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

bytecode = load_file("bytecode_of_umem", {bytecode.__file__!r})
statements = load_file("statements_of_umem", {statements.__file__!r})

def load(address, index): ...

def walk(first, last, unused):
    total, at = 0, first
    while at != last:
        value = load(at, 0)
        if value > 3:
            total = total + load(at, 1)
        elif not (value and load(total, at)):
            continue
        at = value
    return total, load(total, value)

def swap(a, b):
    a, b = load(b, 0), load(a, 0)
    for item in (load(a, 0), b):
        b = load(item, 1) if item else b
    return max(load(a, key) for key in b)

def inner(start):
    def step(by):
        nonlocal start
        start = load(start, by)
        return start
    return step(load(start, 0)) + step(1)

tree = ast.parse('''
def mixed(first, last):
    while last - load(first, 0) >= 2 or not (0 < load(first, 1) < load(last, last)):
        first += load(load(first, 2), f"{{last}}{{load(1, 1)}}")
        for last, items[load(0, 0)] in first:
            assert load(last, 0), load(first, 0)
    return [last, load(first, 0) if load(last, 1) else load(last, 2)]
''')

class AsTheyAre(ast.NodeTransformer):
    # Calls what is called, without looking for its own statements first, which is no access.
    def visit_Call(self, node):
        node.func = node.func.args[0] if isinstance(node.func, ast.Call) else node.func
        return node

tree.body[0].body = statements.in_statements(tree.body[0].body)
exec(compile(ast.fix_missing_locations(AsTheyAre().visit(tree)), "mixed", "exec"))

found = []
for function in (walk, swap, inner, mixed):
    lines = {{offset: line for first, last, line in function.__code__.co_lines() for offset in range(first, last)}}
    base = function.__code__.co_firstlineno
    found.append(sorted({{(lines[place.offset] - base, place.live, place.is_clean)
                         for place in bytecode.places(function.__code__).values()}}))
print(json.dumps(found))
"""


def places_in(python: str) -> list[list[object]]:
    done = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def runs(python: str | None, version: str) -> bool:
    """Whether this is a Python of that version: a launcher may name what is not installed."""
    if python is None:
        return False
    told = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return told.returncode == 0 and told.stdout.strip() == version


def test_places_are_as_the_source_says():
    walk, _, _, mixed = places_in(sys.executable)
    assert all(is_clean for _, _, is_clean in mixed)
    assert walk == [
        [3, ["at", "last", "total"], True],  # nobody reads `first` any more
        [5, ["last", "value"], False],  # `total` waits on the stack
        [6, ["at", "last", "total", "value"], True],
        [9, [], False],
    ]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != OWN])
def test_places_are_the_same_in_other_versions(version):
    python = shutil.which(f"python{version}")
    if not runs(python, version):
        pytest.skip(f"no Python {version} here")
    assert places_in(python) == places_in(sys.executable)


def test_the_files_stand_alone():
    """Else the test above would need umem in every Python."""
    for module in (bytecode, statements):
        assert "from ." not in Path(module.__file__).read_text()
