"""What the verdict concludes from what was found, and nothing else."""

from __future__ import annotations

import pytest

from umem.bench.evidence import LOAD_STORE, Evidence, LitmusResult, conclude

OK = LitmusResult("MP", {(0, 0): 60, (1, 1): 40})
BROKEN = LitmusResult("MP", {(0, 0): 60, (1, 0): 1, (1, 1): 39})
BLIND = LitmusResult("CoRR", {(1, 1): 100})


def evidence(ways, litmus=(OK,), sums=None):
    num_ranks = len(ways)
    return Evidence(ways, sums or [[num_ranks] * num_ranks] * num_ranks, litmus)


def world(*islands, far="ucx tcp"):
    """Ways between ranks that map each other inside an island."""
    island_of = {rank: number for number, island in enumerate(islands) for rank in island}
    ranks = range(len(island_of))
    return [[LOAD_STORE if island_of[a] == island_of[b] else far for b in ranks] for a in ranks]


def test_ranks_that_map_each_other_are_a_supernode():
    conclusion = conclude(evidence(world([0, 1, 2])))
    assert conclusion.line == "a supernode of 3 ranks"
    assert conclusion.is_supernode
    assert "6 of 6 pairs" in conclusion.reasons[0]


@pytest.mark.parametrize(
    ("islands", "line"),
    [
        (([0], [1]), "stacked servers: 2 islands {0}, {1}"),
        (([0, 1], [2, 3]), "stacked servers: 2 islands {0 1}, {2 3}"),
        (([0, 2], [1]), "stacked servers: 2 islands {0 2}, {1}"),
    ],
)
def test_ranks_that_do_not_are_stacked_servers(islands, line):
    conclusion = conclude(evidence(world(*islands)))
    assert conclusion.line == line
    assert not conclusion.is_supernode
    assert "ucx tcp" in conclusion.reasons[0]


def test_one_way_is_not_enough():
    ways = world([0, 1])
    ways[1][0] = "ucx posix"
    assert conclude(evidence(ways)).line == "stacked servers: 2 islands {0}, {1}"


def test_a_forbidden_outcome_makes_every_rank_an_island():
    conclusion = conclude(evidence(world([0, 1]), litmus=(OK, BROKEN)))
    assert conclusion.line == "stacked servers: 2 islands {0}, {1}"
    assert any("NOT coherent" in reason for reason in conclusion.reasons)


def test_a_histogram_with_one_outcome_is_inconclusive_and_said_so():
    conclusion = conclude(evidence(world([0, 1]), litmus=(BLIND,)))
    assert conclusion.is_supernode
    assert any("inconclusive" in reason for reason in conclusion.reasons)


def test_wrong_bytes_or_lost_additions_are_no_supernode():
    lost = conclude(evidence(world([0, 1]), sums=[[2, 2], [2, 1]]))
    assert not lost.is_supernode
    ways = world([0, 1])
    ways[0][1] = ""
    wrong = conclude(evidence(ways))
    assert not wrong.is_supernode
    assert any("did not find" in reason for reason in wrong.reasons)


def test_one_rank_is_neither():
    assert "neither" in conclude(evidence(world([0]), litmus=())).line


@pytest.mark.parametrize(
    ("test", "outcome", "is_forbidden"),
    [
        ("CoRR", (1, 0), True),
        ("CoRR", (0, 1), False),
        ("MP", (1, 0), True),
        ("MP", (0, 1), False),
        ("SB", (0, 0), True),
        ("SB", (1, 0), False),
    ],
)
def test_forbidden_outcomes(test, outcome, is_forbidden):
    result = LitmusResult(test, {outcome: 3, (1, 1): 97})
    assert result.num_forbidden == (3 if is_forbidden else 0)
    assert result.conclusion == ("forbidden" if is_forbidden else "ok")
