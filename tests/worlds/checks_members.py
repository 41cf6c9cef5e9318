"""What members of a team agree on, how teams end, and in which order they are called: run by test_collectives.py."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.worlds import checks_collectives as checks
from tests.worlds.checks_collectives import values
from umem.collectives import Team
from umem.errors import CollectiveMismatch, ForkedRank, UnknownName, WaitTimeout, WorldError


def make_team(space, semantics):
    Team(space, semantics=semantics)


def check_semantics(space):
    """Members ask for the same, or hear of it; both ways give the same bits."""
    with pytest.raises(UnknownName):
        Team(space, semantics="near")
    with pytest.raises(CollectiveMismatch, match=r"Team\(semantics='(message|auto)'\)"):
        Team(space, semantics="message" if space.rank else "auto")
    teams = [Team(space, semantics=semantics) for semantics in ("auto", "load_store", "message")]
    assert [team.semantics for team in teams] == ["load_store", "load_store", "message"]
    for num in (3, 1000, 300_001):
        results = []
        for team in teams:
            team.all_reduce(got := values(space.rank, num, "float16"))
            results.append(got.tobytes())
        assert len(set(results)) == 1, num


def check_end(space, semantics):
    """After its space a team is an error, and in a forked child."""
    team = Team(space, semantics=semantics)
    team.all_reduce(np.ones(3))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            team.all_reduce(np.ones(3))
        except ForkedRank:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    space.barrier()
    space.close()
    with pytest.raises(WorldError, match="closed"):
        team.barrier()


def check_hosts(space):
    """What goes over a network: operations of all sizes, mismatches, teams and threads."""
    checks.check_reductions(space, ("float32", "bfloat16", "int16"), ("sum", "avg"), (7, 5003, 300_001))
    checks.check_moves(space, ("int8", "float32"), (0, 29, 70_001))
    checks.check_mismatches(space)
    checks.check_teams(space)


def check_order(space):
    """Teams that members call in different order: each is told what the other waits in."""
    one, other = Team(space, name="one", timeout_s=0.5), Team(space, name="other", timeout_s=0.5)
    mine, words = (
        (lambda: one.all_reduce(np.ones(4)), "broadcast")
        if space.rank
        else (lambda: other.broadcast(np.ones(3)), "all_reduce")
    )
    with pytest.raises(WaitTimeout, match=rf"which waits in {words}\(.* of the team of ranks 0, 1"):
        mine()
    space.barrier()
