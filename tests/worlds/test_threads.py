"""Any thread may make any call: what checks_threads.py covers, at length, and what it does not."""

from __future__ import annotations

import pytest

from . import checks_threads


def test_every_public_call_is_made_by_threads():
    """The short run of all of them is a check of test_coherence.py."""
    known = checks_threads.COVERED.keys() | checks_threads.EXEMPT.keys()
    assert checks_threads.public_calls() - known == set(), (
        "a check in checks_threads.py must call it from threads"
    )
    assert known - checks_threads.public_calls() == set(), "there is no such call"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_call_from_four_threads_for_long(run_world, world_kind, soak_factor):
    run_world(
        checks_threads.every_call_from_four_threads, 2, world_kind, args=(60.0 * soak_factor,), segment="128M"
    )


@pytest.mark.timeout(120)
def test_a_space_closes_under_its_threads(run_world, world_kind):
    """Each ends with a typed error, whatever call it is in; nothing crashes."""
    for are_typed in run_world(checks_threads.close_under_threads, 2, world_kind, segment="64M"):
        assert are_typed == [True] * checks_threads.NUM_THREADS
