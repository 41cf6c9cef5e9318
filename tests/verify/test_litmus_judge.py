"""What is concluded from counted ends, how a round's lots are dealt, and what a test is as a program of words."""

from __future__ import annotations

import numpy as np
import pytest

from umem.errors import ConfigError, UnknownName
from umem.kernels.page import operations
from umem.verify.litmus import parse
from umem.verify.litmus import run_lane as words
from umem.verify.litmus.command import Options, exit_code
from umem.verify.litmus.judge import Evidence, Result
from umem.verify.litmus.lanes import encode
from umem.verify.litmus.rounds import deal

MP = parse(
    "test MP\nstart x = 0, y = 5\nrank 0: store x 1 ; store_release y 1\n"
    "rank 1: fence ; a = load_acquire y ; fetch_add x 4 ; b = compare_swap x 0 7\n"
    "forbidden a = 1 and b = 0\nallowed a = 5"
)


def evidence(ends, num_ranks=2):
    return Evidence(MP, num_ranks, ends)


def test_one_forbidden_end_among_many_fails():
    found = evidence({(5, 0): 1000, (1, 1): 1000, (1, 0): 1})
    assert found.result is Result.FAIL
    assert dict(found.forbidden) == {MP.forbidden[0]: 1}
    assert dict(found.allowed) == {MP.allowed[0]: 1000}
    assert found.num_instances == 2001


def test_one_end_alone_is_no_pass():
    assert evidence({(5, 0): 10**6}).result is Result.INCONCLUSIVE
    assert evidence({}).result is Result.INCONCLUSIVE
    assert evidence({(5, 0): 10**6, (1, 1): 1}).result is Result.PASS
    assert evidence({(1, 0): 10**6}).result is Result.FAIL, "also where it is the only one"


def test_a_world_too_small_waives():
    assert evidence({}, num_ranks=1).result is Result.WAIVED


def test_the_commonest_ends_come_first_and_the_rest_is_counted():
    assert (
        evidence({(0, 1): 1, (0, 2): 6, (0, 3): 1, (0, 4): 2}).text()
        == "0 2: 60.0%, 0 4: 20.0%, 0 1: 10.0%, 1 more"
    )


def test_exit_codes():
    assert exit_code([Result.PASS, Result.WAIVED]) == 0
    assert exit_code([Result.PASS, Result.INCONCLUSIVE]) == 3
    assert exit_code([Result.WAIVED, Result.WAIVED]) == exit_code([]) == 3, "nothing was played"
    assert exit_code([Result.INCONCLUSIVE, Result.FAIL, Result.PASS]) == 1


def test_options_that_cannot_be_are_refused():
    with pytest.raises(UnknownName, match="cache"):
        Options(cache="bcak")
    with pytest.raises(UnknownName, match="world"):
        Options(world="maped")
    with pytest.raises(ConfigError, match="at least once"):
        Options(instances=0)
    with pytest.raises(ConfigError, match="-1 ranks"):
        Options(ranks=-1)


@pytest.mark.parametrize(("num_ranks", "num_lanes"), [(2, 2), (3, 2), (4, 3), (8, 2), (8, 4), (1, 1)])
def test_every_rank_plays_one_lane_at_most_and_every_lane_is_played(num_ranks, num_lanes):
    random = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        dealt = deal(random, num_ranks, num_lanes)
        assert len(dealt.groups) == num_ranks // num_lanes
        assert all(len(group) == num_lanes for group in dealt.groups)
        players = [rank for group in dealt.groups for rank in group]
        assert len(set(players)) == len(players)
        assert sorted(dealt.homes) == list(range(num_ranks))
        for rank in range(num_ranks):
            place = dealt.place_of(rank)
            assert (place is None) == (rank not in players)
            if place is not None:
                assert dealt.groups[place[0]][place[1]] == rank
                seen.add((rank, place[1], dealt.homes[0]))
    assert len(seen) == num_ranks * num_lanes * num_ranks, "roles and homes go round"


def test_a_lane_is_a_row_a_step():
    code = encode(MP, MP.lanes[1])
    assert code.num_registers == 2
    assert code.rows.tolist() == [
        [words.FENCE_STEP, 0, 0, 0, words.NO_REGISTER],
        [operations.READ, 1, 0, 0, 0],
        [operations.FETCH_ADD, 0, 4, 0, words.NO_REGISTER],
        [operations.COMPARE_SWAP, 0, 0, 7, 1],
    ]
    assert encode(MP, MP.lanes[0]).rows[1].tolist() == [operations.WRITE, 1, 1, 0, words.NO_REGISTER]
