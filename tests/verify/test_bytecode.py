"""Where a kernel may stop, and which locals are still read there: the same in every Python that is supported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from umem.verify.kernel import bytecode

VERSIONS = ("3.11", "3.12", "3.13")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"

# No comprehensions: they are functions of their own in 3.11, and part of the function since.
LOOK = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("bytecode_of_umem", {bytecode.__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)

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

found = []
for function in (walk, swap, inner):
    lines = {{offset: line for first, last, line in function.__code__.co_lines() for offset in range(first, last)}}
    base = function.__code__.co_firstlineno
    found.append(sorted({{(lines[place.offset] - base, place.live, place.is_clean)
                         for place in module.places(function.__code__).values()}}))
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
    walk, _, _ = places_in(sys.executable)
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


def test_the_file_stands_alone():
    """Else the test above would need umem in every Python."""
    source = Path(bytecode.__file__).read_text()
    assert "from ." not in source
