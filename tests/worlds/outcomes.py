"""Checks that every rank of a world runs in step, and what each rank reports of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

import pytest

import umem

Check = Callable[[umem.Space], None]


def named(*checks: Check) -> dict[str, Check]:
    """Checks by name, in order."""
    return {check.__name__: check for check in checks}


def run_checks(space: umem.Space, checks: Mapping[str, Check]) -> dict[str, str]:
    """Outcome of each check in this rank: "ok", "skipped: reason" or the traceback; all stop after one that failed."""
    outcomes = {}
    for name, check in checks.items():
        try:
            check(space)
            outcomes[name] = "ok"
        except pytest.skip.Exception as reason:
            outcomes[name] = f"skipped: {reason}"
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 - every rank reports, whatever went wrong
            outcomes[name] = traceback.format_exc()
        told = space.world.exchange("check", outcomes[name][:2].encode())
        failed = [rank for rank, start in enumerate(told) if start not in (b"ok", b"sk")]
        if failed:
            outcomes.setdefault("stopped", f"after {name}, which failed in ranks {failed}")
            break
    return outcomes
