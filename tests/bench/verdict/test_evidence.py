"""What the verdict concludes from what was found, and nothing else."""

from __future__ import annotations

import pytest

from umem.bench.verdict.evidence import LOAD_STORE, Evidence, LitmusResult, Speed, conclude

OK = LitmusResult("MP", {(0, 0): 60, (1, 1): 40})
OTHERS = tuple(LitmusResult(test, {(0, 1): 60, (1, 1): 40}) for test in ("CoRR", "SB"))
BROKEN = LitmusResult("MP", {(0, 0): 60, (1, 0): 1, (1, 1): 39})
BLIND = LitmusResult("CoRR", {(1, 1): 100})


def evidence(ways, litmus=(OK, *OTHERS), sums=None):
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


def test_a_histogram_with_one_outcome_is_inconclusive_and_no_evidence():
    conclusion = conclude(evidence(world([0, 1]), litmus=(OK, BLIND, OTHERS[1])))
    assert not conclusion.is_supernode
    assert not conclusion.is_shown
    assert any("inconclusive" in reason for reason in conclusion.reasons)


@pytest.mark.parametrize(
    ("litmus", "speed", "lack"),
    [
        ((OK,), Speed(), "litmus CoRR, litmus SB"),
        ((), Speed(), "litmus CoRR, litmus MP, litmus SB"),
        ((OK, *OTHERS), Speed(has_latency=False), "the latency of loads and stores"),
        ((OK, *OTHERS), Speed(has_rate=False), "the rate of loads and stores"),
    ],
)
def test_a_supernode_is_not_said_without_all_of_its_evidence(litmus, speed, lack):
    conclusion = conclude(evidence(world([0, 1]), litmus=litmus), speed)
    assert conclusion.line == f"no verdict: 2 ranks reach each other's memory, but not shown: {lack}"
    assert (conclusion.is_supernode, conclusion.is_shown) == (False, False)


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
