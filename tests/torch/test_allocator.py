"""torch's CPU allocator over the heap: where memory comes from, when it goes back, what is refused."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

from . import checks_allocator, steps


@functools.cache
def mapped() -> list[dict[str, str]]:
    return steps.launch(checks_allocator.MAPPED, ranks=2, world="mapped")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", checks_allocator.MAPPED)
def test_mapped(check):
    steps.judge(mapped(), check)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", ["no-peer-access", "hosts"])
@pytest.mark.parametrize("check", checks_allocator.UNMAPPED)
def test_unmapped(world, check, why_no_hosts):
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    steps.judge(steps.launch(checks_allocator.UNMAPPED, ranks=2, world=world), check)
