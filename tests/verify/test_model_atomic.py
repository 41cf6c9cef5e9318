"""The tables are right, up to 8 ranks beside the home; each wrong row is found beside its right control."""

from __future__ import annotations

import pytest

from umem.coherence.atomic import Atomic
from umem.coherence.load import check_rows
from umem.coherence.protocol import (
    ACCESS_HOME,
    ADD_SHARER,
    FORWARD_SHARED,
    GET_OWNED,
    GET_SHARED,
    HOME,
    MESI,
    MSI,
    NOTHING,
    OWNER,
    PROTOCOLS,
    PUT_OWNED,
    READ_HOME,
    SET_OWNER,
    SHARER,
    SNOOP,
    STRANGER,
    WRITE_BACK,
    WRITE_HOME,
    Copy,
    M,
    Protocol,
    Row,
    S,
    U,
)
from umem.coherence.search import Result, search

# A wrong row of a table, and what it breaks with three ranks and a home.
WRONG_ROWS = {
    "a store of a stranger leaves the sharers": (
        MSI,
        (S, GET_OWNED, STRANGER),
        Row(READ_HOME | SET_OWNER, M, Copy.M),
        "SWMR",
    ),
    "an upgrade leaves the other sharers": (
        MSI,
        (S, GET_OWNED, SHARER),
        Row(READ_HOME | SET_OWNER, M, Copy.M),
        "SWMR",
    ),
    "a bus that does not ask": (
        SNOOP,
        (S, GET_OWNED, STRANGER),
        Row(READ_HOME | SET_OWNER, M, Copy.M),
        "SWMR",
    ),
    "a second owner": (MSI, (M, GET_OWNED, STRANGER), Row(READ_HOME | SET_OWNER, M, Copy.M), "data-value"),
    "a reader beside the owner": (
        MSI,
        (M, GET_SHARED, STRANGER),
        Row(READ_HOME | ADD_SHARER, S, Copy.S),
        "data-value",
    ),
    "the owner is forgotten, and keeps its copy": (
        MSI,
        (M, GET_SHARED, STRANGER),
        Row(FORWARD_SHARED | READ_HOME | ADD_SHARER, S, Copy.S),
        "data-value",
    ),
    "a reader is forgotten": (MSI, (U, GET_SHARED, STRANGER), Row(READ_HOME, U, Copy.S), "data-value"),
    "what is given back is lost": (MSI, (M, PUT_OWNED, OWNER), Row(NOTHING, U, Copy.I), "data-value"),
    "a stranger gives back": (MSI, (U, PUT_OWNED, STRANGER), Row(WRITE_BACK, U, Copy.I), "data-value"),
    "a sharer gives back what was taken": (
        MSI,
        (S, PUT_OWNED, SHARER),
        Row(WRITE_BACK, S, Copy.I),
        "data-value",
    ),
    "a late stranger frees the line of another": (
        MSI,
        (M, PUT_OWNED, STRANGER),
        Row(NOTHING, U, Copy.I),
        "SWMR",
    ),
    "a store at home leaves the sharers": (
        MSI,
        (S, WRITE_HOME, STRANGER),
        Row(ACCESS_HOME, U, Copy.I),
        "data-value",
    ),
    "a store of the home leaves the sharers": (
        MSI,
        (S, WRITE_HOME, HOME),
        Row(ACCESS_HOME, U, Copy.I),
        "data-value",
    ),
    "a load of the home leaves the owner": (
        MSI,
        (M, GET_SHARED, HOME),
        Row(ACCESS_HOME, U, Copy.I),
        "data-value",
    ),
    "an exclusive copy that the directory calls shared": (
        MESI,
        (S, GET_SHARED, STRANGER),
        Row(READ_HOME | SET_OWNER, M, Copy.E),
        "SWMR",
    ),
    "a store that is never granted": (
        MSI,
        (S, GET_OWNED, SHARER),
        Row(READ_HOME | ADD_SHARER, S, Copy.S),
        "stuck",
    ),
    "a load that gets nothing": (MSI, (U, GET_SHARED, STRANGER), Row(NOTHING, U, Copy.I), "stuck"),
}


def explore(protocol, num_ranks=3):
    return search(Atomic(protocol, num_ranks))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_shipped_is_exhausted(name, num_ranks):
    verdict = explore(PROTOCOLS[name], num_ranks)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_is_found(name):
    protocol, key, row, bug = WRONG_ROWS[name]
    assert explore(protocol).result is Result.EXHAUSTED
    wrong = Protocol("wrong", {**protocol.rows, key: row})
    if bug != "stuck":  # what never ends may also be a row without a meaning, which is refused before
        check_rows(wrong)
    verdict = explore(wrong)
    assert verdict.result is Result.BUG and bug in verdict.bug, verdict.bug


def test_a_missing_row_is_found():
    rows = dict(MSI.rows)
    del rows[(S, PUT_OWNED, SHARER)]
    assert "no row for (S, PUT_OWNED, SHARER)" in explore(Protocol("short", rows)).bug


def test_every_row_is_needed_but_those_of_names_that_a_bus_does_not_know():
    for protocol in (MSI, MESI):
        model = Atomic(protocol, 3)
        search(model)
        assert model.unused == []
    model = Atomic(SNOOP, 3)
    search(model)
    assert {key[2] for key in model.unused} == {SHARER}


def test_the_way_to_a_bug_is_the_shortest_and_ranks_keep_their_numbers():
    verdict = explore(
        Protocol("wrong", {**MSI.rows, (S, GET_OWNED, STRANGER): WRONG_ROWS["a second owner"][2]})
    )
    assert len(verdict.trace) == 2, "one loads, another one stores"
    assert "load" in verdict.trace[0] and "store" in verdict.trace[1]
    assert verdict.trace[0].split(":")[0] != verdict.trace[1].split(":")[0]


def test_renaming_ranks_loses_nothing():
    class Plain(Atomic):
        def canonical(self, state):
            return state

    for protocol in PROTOCOLS.values():
        states = search(Plain(protocol, 3)).num_states
        assert explore(protocol).num_states < states
    assert search(Plain(Protocol("w", {**MSI.rows, (M, PUT_OWNED, OWNER): Row(NOTHING, U, Copy.I)}), 3)).bug


def test_a_limit_is_no_pass():
    verdict = search(Atomic(MSI, 8), limit_states=5)
    assert verdict.result is Result.LIMIT and verdict.bug == ""
