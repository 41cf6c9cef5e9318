"""Worlds that another launcher started."""

from __future__ import annotations

from .. import config


def is_requested() -> bool:
    """Whether a launcher has set RANK and WORLD_SIZE."""
    return config.text("RANK") is not None and config.text("WORLD_SIZE") is not None
