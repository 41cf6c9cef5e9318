"""Checks that every rank of one launch runs in step; a test looks up what became of its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

import umem

Check = Callable[[umem.Space], None]

# Imported once by the parent of the ranks instead of by each of them.
PRELOAD = ("pytest", "torch", "umem.torch.attach", "umem.torch.offload", "umem.torch.summary")


def launch(
    checks: dict[str, Check], ranks: int, world: str, segment: str = "96M", **options: Any
) -> list[dict[str, str]]:
    """Outcome of each check in each rank: "ok", "skipped: reason" or the traceback."""
    # By name: a function of a test module travels as its module's name.
    options.setdefault("timeout_s", 60.0)
    results: list[dict[str, str]] = umem.launch(
        run_all,
        ranks=ranks,
        world=world,
        segment=segment,
        args=(checks,),
        results="all",
        preload=PRELOAD,
        **options,
    )
    return results


def run_all(space: umem.Space, checks: dict[str, Check]) -> dict[str, str]:
    """Every check in turn; where one fails in a rank, none is run after it."""
    outcomes: dict[str, str] = {}
    for name, check in checks.items():
        outcomes[name] = outcome(check, space)
        told = space.world.exchange("check", outcomes[name][:2].encode())
        if told[0] != b"ok" or len(set(told)) > 1:
            outcomes["stopped"] = (
                f"{name} failed before it in ranks {[r for r, t in enumerate(told) if t != b'ok']}"
            )
            break
    return outcomes


def outcome(check: Check, space: umem.Space) -> str:
    try:
        check(space)
    except pytest.skip.Exception as reason:
        return f"skipped: {reason}"
    except Exception:  # noqa: BLE001 - every rank reports, whatever went wrong
        told = traceback.format_exc()
        print(
            told, flush=True
        )  # should the other ranks wait for this one, their time-out is what a test sees
        return told
    return "ok"


def judge(outcomes: list[dict[str, str]], check: str) -> None:
    """Pass, skip or fail as the ranks said."""
    for rank, told in enumerate(
        outcome.get(check, outcome.get("stopped", "not run")) for outcome in outcomes
    ):
        if told.startswith("skipped"):
            pytest.skip(told)
        assert told == "ok", f"rank {rank}: {told}"
