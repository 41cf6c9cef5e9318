"""The exchange that all collectives are made of, model-checked: what was staged before is there, and is read before it
is written again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.verify.test_own_kernels import PAGES, constants_of, page_of, post_unordered
from umem.kernels.build.variants import family
from umem.kernels.collective import exchange, lanes, layout, polling
from umem.kernels.collective.layout import (
    SLOT_BYTES,
    SLOT_CALL,
    SLOT_DATA,
    SLOT_LENGTH,
    SLOT_SIGNAL,
    TEAM_ARRIVED,
    TEAM_CALL,
    TEAM_CONTROL,
    TEAM_LENGTH,
    TEAM_MEETING,
    TEAM_OTHER,
    TEAM_PAGES,
    TEAM_POSITION,
    TEAM_SEQUENCE,
    TEAM_SIZE,
    TEAM_WORDS,
    slot_of,
)
from umem.kernels.intrinsics.scalar import (
    load_i64,
    load_relaxed_i64_gpu,
    store_i64,
    store_relaxed_i64,
    store_relaxed_i64_gpu,
)
from umem.kernels.status import OK
from umem.verify import Result, explore

TEAMS, MEMBER_PAGES, TABLES = 1 << 12, 1 << 16, 1 << 14


def team_of(member):
    return TEAMS + 512 * member


class Ways(NamedTuple):
    """What an exchange is made of; a tuple, which the checker can hash."""

    announce: Callable[..., Any]
    await_all: Callable[..., Any]


AWAKE = Ways(polling.POLLED.announce, polling.await_all)  # as GPUs exchange


def exchange_rounds(member, num_members, num_rounds, ways=exchange):
    """In each round every member shows a number in its slot, and finds those of all."""
    team = team_of(member)
    done = 0
    while done < num_rounds:
        slot = slot_of(team, member, load_i64(team, TEAM_SEQUENCE) + 1)
        store_i64(slot, SLOT_DATA, 10 * done + member)
        ways.announce(team)
        code = ways.await_all(team, 7, 1 << 30)
        assert code == OK, code
        code = exchange.check_calls(team)
        assert code == OK, code
        other = 0
        while other < num_members:
            seen = load_i64(slot_of(team, other, load_i64(team, TEAM_SEQUENCE)), SLOT_DATA)
            assert seen == 10 * done + other, f"member {other} shows {seen} in round {done}"
            other += 1
        done += 1


def program(num_members, num_rounds, *ways):
    """(lanes, words, constants); the members exchange in these ways in turn, all sleep where none is given."""
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
    chosen = [ways[member % len(ways)] if ways else exchange for member in range(num_members)]
    members = [(exchange_rounds, member, num_members, num_rounds, way) for member, way in enumerate(chosen)]
    return members, words, constants


@pytest.mark.parametrize(
    ("model", "num_members", "num_rounds"),
    [("weak", 2, 3), ("sequential", 3, 1), pytest.param("weak", 3, 1, marks=pytest.mark.soak)],
)
def test_an_exchange_shows_what_all_brought(monkeypatch, model, num_members, num_rounds):
    monkeypatch.setattr(
        layout, "NUM_FLAG_LINES", 2
    )  # two suffice; with the four that there are no slot comes back so soon
    members, words, constants = program(num_members, num_rounds)
    verdict = explore(members, words, model=model, constants=constants)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize(
    ("model", "num_members", "num_rounds"),
    [("weak", 2, 3), ("weak", 3, 1)],
)
def test_an_exchange_where_nobody_sleeps(monkeypatch, model, num_members, num_rounds):
    monkeypatch.setattr(layout, "NUM_FLAG_LINES", 2)
    monkeypatch.setattr(polling, "POLLS_PER_LOOK", 1)
    members, words, constants = program(num_members, num_rounds, AWAKE)
    verdict = explore(members, words, model=model, constants=constants)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize("name", ["post_unheard", "fence_acquire"])
def test_a_missing_order_where_nobody_sleeps_is_found(monkeypatch, name):
    """A post that releases nothing, a wait that acquires nothing."""
    monkeypatch.setattr(polling, "POLLS_PER_LOOK", 1)
    ways = AWAKE
    if name == "post_unheard":
        ways = AWAKE._replace(announce=family((exchange.announce,), "planted", post=store_unordered).announce)
    else:
        monkeypatch.setattr(polling, "fence_acquire", lambda: None)
    members, words, constants = program(2, 1, ways)
    bug = explore(members, words, constants=constants).bug
    assert "data race" in bug or bug.startswith("stuck")


def store_unordered(signal, value):
    store_relaxed_i64(signal, 0, value << 1)


def meet_rounds(team, lane, num_blocks, num_rounds):
    """In each round every block, of one lane, shows a number, and finds those of all once they have met."""
    done = 0
    while done < num_rounds:
        store_i64(team, TEAM_WORDS + lane, 10 * done + lane)
        lanes.meet(team)
        other = 0
        while other < num_blocks:
            seen = load_i64(team, TEAM_WORDS + other)
            assert seen == 10 * done + other, f"block {other} shows {seen} in round {done}"
            other += 1
        lanes.meet(team)
        done += 1


def explore_meetings(num_blocks, num_rounds):
    words = {TEAMS + 8 * word: 0 for word in (TEAM_ARRIVED, TEAM_MEETING)}
    words |= {TEAMS + 8 * (TEAM_WORDS + lane): 0 for lane in range(num_blocks)}
    program = [(meet_rounds, TEAMS, lane, num_blocks, num_rounds) for lane in range(num_blocks)]
    return explore(program, words)


@pytest.mark.parametrize(("num_blocks", "num_rounds"), [(2, 2), (3, 1)])
def test_blocks_of_a_launch_meet(num_blocks, num_rounds):
    verdict = explore_meetings(num_blocks, num_rounds)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("store_release_i64_gpu", store_relaxed_i64_gpu),
        ("load_acquire_i64_gpu", load_relaxed_i64_gpu),
        ("store_relaxed_i64_gpu", lambda *given: None),
    ],
)
def test_blocks_that_do_not_meet_are_found(monkeypatch, name, planted):
    monkeypatch.setattr(lanes, name, planted)
    assert explore_meetings(2, 2).bug


def test_one_slot_would_not_do(monkeypatch):
    monkeypatch.setattr(layout, "NUM_FLAG_LINES", 1)
    members, words, constants = program(2, 2)
    assert explore(members, words, constants=constants).bug


def test_a_post_that_publishes_nothing_is_found(monkeypatch):
    monkeypatch.setattr(exchange, "post", post_unordered)
    members, words, constants = program(2, 1)
    bug = explore(members, words, constants=constants).bug
    assert "data race" in bug or bug.startswith("stuck")


def test_a_member_that_does_not_wait_is_found(monkeypatch):
    monkeypatch.setattr(exchange, "poll_eagerly", lambda *arguments: 1)
    members, words, constants = program(2, 1)
    assert explore(members, words, constants=constants).bug


def test_the_pages_of_the_two_tests_lie_apart():
    assert TEAMS < TABLES < MEMBER_PAGES < PAGES
