"""What the documentation says is so: generated pages are current, links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import write_reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_reference_is_current():
    assert write_reference.PAGE.read_text() == write_reference.page(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), f"{page.name} links to {target}"
        heads = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
        assert not anchor or anchor in {head.lower().replace(" ", "-") for head in heads}, target


def test_every_place_that_raises_not_mappable_is_listed():
    listed = (ROOT / "docs" / "worlds.md").read_text()
    for path in [*(ROOT / "umem").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for kind in ast.walk(ast.parse(path.read_text())):
            if not isinstance(kind, ast.ClassDef | ast.Module):
                continue
            for function in kind.body:
                if isinstance(function, ast.FunctionDef) and "raise NotMappable(" in ast.unparse(function):
                    owner = f"{kind.name}." if isinstance(kind, ast.ClassDef) else ""
                    where = f"`{owner}{function.name}`"
                    assert where in listed, (
                        f"docs/worlds.md does not list {where} of {path.relative_to(ROOT)}"
                    )
