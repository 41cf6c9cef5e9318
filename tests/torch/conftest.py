"""All of it needs torch, and is skipped with the reason where that is not installed."""

from __future__ import annotations

import importlib.util

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if "tests/torch/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="torch is not installed: scripts/setup torch"))
