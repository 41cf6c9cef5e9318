"""The exchange that all collectives are made of, model-checked: what was staged before is there, and is read before it
is written again."""

from __future__ import annotations

import pytest

from tests.verify.test_own_kernels import PAGES, constants_of, page_of, post_unordered
from umem.kernels.collective import exchange, layout
from umem.kernels.collective.layout import (
    SLOT_BYTES,
    SLOT_CALL,
    SLOT_DATA,
    SLOT_LENGTH,
    SLOT_SIGNAL,
    TEAM_CALL,
    TEAM_CONTROL,
    TEAM_LENGTH,
    TEAM_OTHER,
    TEAM_PAGES,
    TEAM_POSITION,
    TEAM_SEQUENCE,
    TEAM_SIZE,
    slot_of,
)
from umem.kernels.intrinsics.scalar import load_i64, store_i64
from umem.kernels.status import OK
from umem.verify import Result, explore

TEAMS, MEMBER_PAGES, TABLES = 1 << 12, 1 << 16, 1 << 14


def team_of(member):
    return TEAMS + 512 * member


def exchange_rounds(member, num_members, num_rounds):
    """In each round every member shows a number in its slot, and finds those of all."""
    team = team_of(member)
    done = 0
    while done < num_rounds:
        slot = slot_of(team, member, load_i64(team, TEAM_SEQUENCE) + 1)
        store_i64(slot, SLOT_DATA, 10 * done + member)
        exchange.announce(team)
        code = exchange.await_all(team, 7, 1 << 30)
        assert code == OK, code
        code = exchange.check_calls(team)
        assert code == OK, code
        other = 0
        while other < num_members:
            seen = load_i64(slot_of(team, other, load_i64(team, TEAM_SEQUENCE)), SLOT_DATA)
            assert seen == 10 * done + other, f"member {other} shows {seen} in round {done}"
            other += 1
        done += 1


def program(num_members, num_rounds):
    """(lanes, words, constants)"""
    words, constants = {}, {}
    for member in range(num_members):
        constants |= constants_of(page_of(member), member, num_members)
        fixed = {
            TEAM_CONTROL: page_of(member),
            TEAM_SIZE: num_members,
            TEAM_POSITION: member,
            TEAM_PAGES: TABLES,
            TEAM_CALL: 1,
            TEAM_LENGTH: 8,
        }
        constants |= {team_of(member) + 8 * word: value for word, value in fixed.items()}
        constants[TABLES + 8 * member] = MEMBER_PAGES + 4096 * member
        words |= {team_of(member) + 8 * word: 0 for word in (TEAM_SEQUENCE, TEAM_OTHER)}
        for slot in range(layout.NUM_FLAG_LINES):
            start = MEMBER_PAGES + 4096 * member + SLOT_BYTES * slot
            words |= {start + 8 * word: 0 for word in (SLOT_SIGNAL, SLOT_CALL, SLOT_LENGTH, SLOT_DATA)}
    lanes = [(exchange_rounds, member, num_members, num_rounds) for member in range(num_members)]
    return lanes, words, constants


@pytest.mark.parametrize(
    ("model", "num_members", "num_rounds"),
    [("weak", 2, 3), ("sequential", 3, 1), pytest.param("weak", 3, 1, marks=pytest.mark.soak)],
)
def test_an_exchange_shows_what_all_brought(monkeypatch, model, num_members, num_rounds):
    monkeypatch.setattr(
        layout, "NUM_FLAG_LINES", 2
    )  # two suffice; with the four that there are no slot comes back so soon
    lanes, words, constants = program(num_members, num_rounds)
    verdict = explore(lanes, words, model=model, constants=constants)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def test_one_slot_would_not_do(monkeypatch):
    monkeypatch.setattr(layout, "NUM_FLAG_LINES", 1)
    lanes, words, constants = program(2, 2)
    assert explore(lanes, words, constants=constants).bug


def test_a_post_that_publishes_nothing_is_found(monkeypatch):
    monkeypatch.setattr(exchange, "post", post_unordered)
    lanes, words, constants = program(2, 1)
    bug = explore(lanes, words, constants=constants).bug
    assert "data race" in bug or bug.startswith("stuck")


def test_a_member_that_does_not_wait_is_found(monkeypatch):
    monkeypatch.setattr(exchange, "poll_eagerly", lambda *arguments: 1)
    lanes, words, constants = program(2, 1)
    assert explore(lanes, words, constants=constants).bug


def test_the_pages_of_the_two_tests_lie_apart():
    assert TEAMS < TABLES < MEMBER_PAGES < PAGES
