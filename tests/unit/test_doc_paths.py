"""Files and modules that documentation, a docstring or a comment names are where it says."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("bench", "docs", "examples", "kernels", "scripts", "tests", "umem", ".ci")
SUFFIXES = ("py", "md", "toml", "c", "cpp", "litmus", "txt")

# Read whole; of Python's files only docstrings and comments are.
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(
        ROOT / name
        for name in ("Makefile", "pyproject.toml", ".ci/run", "scripts/setup", "scripts/gpu-check")
    ),
    *(
        path
        for folder in ("bench", "kernels", "umem")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".toml", ".c", ".cpp")
    ),
]
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]

IN_A_FOLDER = re.compile(rf"(?<![\w./*-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*[\w*]")
WITH_A_SUFFIX = re.compile(rf"(?<![\w./*-])(?:[\w.*-]+/)*[\w*-]+\.(?:{'|'.join(SUFFIXES)})\b(?![\w(/-])")
MODULE = re.compile(r"(?<![\w./-])umem(?:\.[A-Za-z_]\w*)+")

ELSEWHERE = {
    *("script.py", "my.py", "mine.py", "stack.py", "my.litmus", "FILE.py", "file.py"),  # files of users
    "gpu-check.md",  # what scripts/gpu-check writes
    *("mm_ep.c", "amo_sw.c"),  # of UCX
    "umem.kernels.ops",  # a name from before, in the changelog
}


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each docstring and comment of a Python file, or of each line of another one."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield node.body[0].lineno, text
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@cache
def places() -> dict[str, list[Path]]:
    """All files of the tree, by the last part of their names."""
    found: dict[str, list[Path]] = {}
    for path in [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]:
        found.setdefault(path.name, []).append(path)
    return found


def is_file(name: str, beside: Path) -> bool:
    """Whether `name` is a path from the root or from a folder above `beside`, or a name that only one file has."""
    above = [folder for folder in beside.parents if folder.is_relative_to(ROOT)]
    if any(any(folder.glob(name)) for folder in above):
        return True
    return "/" not in name and len(places().get(name, ())) == 1


def is_module(name: str) -> bool:
    """Whether a module has this name, or the name that comes last stands in the module before it."""
    at, (_, *parts) = ROOT / "umem", name.split(".")
    while parts and ((at / parts[0]).is_dir() or (at / f"{parts[0]}.py").exists()):
        at /= parts.pop(0)
    source = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
    return not parts or bool(re.search(rf"\b{parts[0]}\b", source.read_text()))


def missing(path: Path) -> list[str]:
    """The names in a file that lead nowhere, each with its line."""
    found = []
    for line, text in texts_of(path):
        names = {
            name
            for name in (*IN_A_FOLDER.findall(text), *WITH_A_SUFFIX.findall(text))
            if not is_file(name, path)
        }
        names |= {name for name in MODULE.findall(text) if not is_module(name)}
        found += [f"{path.relative_to(ROOT)}:{line} names {name}" for name in sorted(names - ELSEWHERE)]
    return found


@pytest.mark.parametrize("paths", [TEXTS, SOURCES], ids=["documentation", "docstrings and comments"])
def test_every_file_that_is_named_is_there(paths):
    assert len(paths) > 10
    assert not [name for path in sorted(paths) for name in missing(path)], "a file or module of another name"
