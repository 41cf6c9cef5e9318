"""What umem.torch promises where another rank's memory cannot be mapped: an error, or a copy that was asked for."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

from . import checks_allocator, checks_behaviour, checks_sharing, steps

CHECKS = checks_allocator.UNMAPPED | checks_behaviour.UNMAPPED | checks_sharing.UNMAPPED


@functools.cache
def outcomes(world: str) -> list[dict[str, str]]:
    """What both ranks of one launch report."""
    return steps.launch(CHECKS, ranks=2, world=world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", ["no-peer-access", "hosts"])
@pytest.mark.parametrize("check", CHECKS)
def test_unmapped(world, check, why_no_hosts):
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    steps.judge(outcomes(world), check)
