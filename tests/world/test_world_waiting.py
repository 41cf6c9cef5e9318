"""The one wait loop of Python: what ends it, and what it looks for before it gives up."""

from __future__ import annotations

import pytest

from umem.errors import RankLost
from umem.world.waiting import Deadline, until


def test_what_was_found_is_returned_and_no_time_is_one_look() -> None:
    looks = []
    assert until(lambda: len(looks) if looks.append(0) or len(looks) == 3 else None, Deadline(60)) == 3
    looks.clear()
    assert until(lambda: looks.append(0), Deadline(0)) is None
    assert len(looks) == 1


def test_what_a_peer_did_before_it_was_lost_is_found() -> None:
    done = []

    def lost() -> RankLost:
        done.append("its part")
        return RankLost(1, "a wait")

    assert until(lambda: done or None, Deadline(60), lost) == ["its part"]


@pytest.mark.parametrize(("grace_s", "least"), [(0.0, 2), (0.05, 3)])
def test_a_lost_peer_is_an_error_after_the_grace_even_past_the_deadline(grace_s: float, least: int) -> None:
    looks = []
    with pytest.raises(RankLost, match="rank 1"):
        until(lambda: looks.append(0), Deadline(0), lambda: RankLost(1, "a wait"), grace_s)
    assert len(looks) == least if grace_s == 0.0 else len(looks) >= least


def test_a_loss_is_raised_as_it_is_told_at_last() -> None:
    """That a rank is gone, and why it has left, come by two ways: either may be the first."""
    reasons = iter(["", "ValueError"])
    with pytest.raises(RankLost, match="ValueError"):
        until(lambda: None, Deadline(60), lambda: RankLost(1, "a wait", next(reasons)))
