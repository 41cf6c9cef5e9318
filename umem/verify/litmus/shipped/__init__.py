"""The tests that come with umem, one a file."""

from __future__ import annotations

from pathlib import Path

from ..litmus import Litmus
from ..text import SUFFIX, read


def shipped() -> list[Litmus]:
    """Every shipped test, by name."""
    return [read(path) for path in sorted(Path(__file__).parent.glob(f"*{SUFFIX}"))]
