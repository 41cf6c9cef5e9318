"""This room tests launching itself: each parent of ranks is started as a program, as umem does."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def start_of_parents() -> None:
    """Leaves the start of parents as it is."""
