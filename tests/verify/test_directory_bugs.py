"""What is planted in the directory's kernels is found: each bug beside the unmodified kernels in the same
configuration, which are exhausted and clean.

A bug is planted in the modules that run: one function replaced by another that differs in one point.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from umem.coherence.protocol import INVALIDATE, MSI, SHARER, STRANGER, Protocol, Request, Row, S
from umem.kernels.coherent import cache as line_cache
from umem.kernels.coherent import directory, element, eviction, hits, span, supply, transaction, typed
from umem.kernels.coherent import layout as words
from umem.kernels.intrinsics.scalar import (
    load_acquire_i64,
    load_relaxed_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.verify import Result, explore

from . import coherence as world
from .coherence import Small, search
from .planted import (
    add_without_pin,
    claimed_but_for_upgrades,
    claimed_without_version,
    copy_in_relaxed,
    copy_line_relaxed,
    copy_out_relaxed,
    give_back_first,
    hold_what_is_taken,
    hold_when_free,
    leave_what_is_taken,
    let_owner_go_first,
    load_without_second_look,
    nothing,
    publish_tag_first,
    publish_unlocked,
    put_relaxed,
    read_without_second_look,
    set_state_relaxed,
    take_at_once,
    take_when_free,
    unlock_relaxed,
)

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """The lanes that meet it, what the search says of it, and where it is planted: in the kernels, or in `wrong`,
    fields of the small world."""

    lanes: str
    found: str
    plant: Plant
    world: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    kills: int = 0
    model: str = "weak"
    mortal: tuple[int, ...] | None = None
    is_slow: bool = False  # seconds: the search is for `make verify`


def replaced(module: Any, **functions: Any) -> Plant:
    """Other functions under these names of a module."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, function in functions.items():
            monkeypatch.setattr(module, name, function)

    return plant


def remade(**templates: Any) -> Plant:
    """Other templates of coherent access, and the accesses made of them."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        replaced(hits, **templates)(monkeypatch)
        called = {name: made for name, made in templates.items() if hasattr(element, name)}
        replaced(element, **called)(monkeypatch)
        monkeypatch.setattr(world, "coherent_load_i64", typed._load("i64"))
        monkeypatch.setattr(world, "coherent_store_i64", typed._change("i64", "store"))
        monkeypatch.setattr(world, "coherent_fetch_add_i64", typed._change("i64", "fetch_add"))

    return plant


def without_invalidation(request: Request) -> Protocol:
    """MSI in which this request on a shared line leaves the copies of others."""
    rows = dict(MSI.rows)
    for relation in (STRANGER, SHARER):
        row = rows[S, request, relation]
        rows[S, request, relation] = Row(row.actions & ~INVALIDATE, row.directory, row.copy)
    return Protocol("careless", rows)


def always(*arguments):
    """What stands for a question that is not asked."""
    return 1


TWO_LINES = {"num_lines": 2}
OWNED = {"first_owner": 1}
EVICTED = {**TWO_LINES, **OWNED}
BESIDE = {"version_bits": 2, **TWO_LINES}
BUGS = {
    "a store without a pin": Bug("1:a 2:a", "no order", remade(modify_hit=add_without_pin)),
    "a hit without a second look": Bug(
        "1:l 1:A", "no order", remade(load_hit=load_without_second_look), TWO_LINES
    ),
    "a relaxed fill": Bug(
        "1:l 1:L", "no order", replaced(transaction, copy_line=copy_line_relaxed), TWO_LINES
    ),
    "a relaxed tag": Bug("1:l 1:l", "no order", replaced(transaction, set_state=set_state_relaxed)),
    "an owner that is never TAKEN": Bug(
        "1:aA 2:a", "no order", replaced(transaction, take=take_at_once), TWO_LINES, is_slow=True
    ),
    "no invalidation": Bug("1:l 2:a", "stale copy", replaced(transaction, invalidate=nothing)),
    "an upgrade at once beside another sharer": Bug(
        "1:l 2:la", "stale copy", replaced(transaction, is_shared_by_others=nothing)
    ),
    "a row without invalidation": Bug(
        "1:l 2:a", "stale copy", nothing, wrong={"protocol": without_invalidation(Request.GET_OWNED)}
    ),
    "a row without invalidation, stores at home": Bug(
        "1:l 2:a",
        "stale copy",
        nothing,
        {"attribute": words.THROUGH},
        {"protocol": without_invalidation(Request.WRITE_HOME)},
    ),
    "a relaxed unlock": Bug("1:l 2:a", "stale copy", replaced(transaction, unlock_line=unlock_relaxed)),
    "unlocked before the own tag": Bug(
        "1:l 2:a", "stale copy", replaced(transaction, publish=publish_unlocked)
    ),
    "a range that later looks overtake": Bug(
        "1:r 1:al", "no order", replaced(span, copy_out=copy_out_relaxed), BESIDE
    ),
    "a range without a second look": Bug(
        "1:r 1:al",
        "no order",
        replaced(span, read_run=nothing, read_line=read_without_second_look),
        BESIDE,
    ),
    "a range that is not awaited": Bug(
        "1:x 2:a", "no order", replaced(line_cache, await_group=nothing), OWNED
    ),
    "a range that looks at tags before its pin is seen": Bug(
        "1:x 2:a", "no order", replaced(span, fence_after_atomic=nothing), OWNED
    ),
    "a pin that is looked at before the tag is seen": Bug(
        "1:x 2:a", "no order", replaced(line_cache, fence_after_atomic=nothing), OWNED
    ),
    "a range that ends relaxed": Bug(
        "1:x 2:a", "no order", replaced(span, store_release_i64=store_relaxed_i64), OWNED
    ),
    "a range that a sibling's add does not await": Bug(
        "1:x 1:a", "data race", remade(held_pin=nothing), OWNED
    ),
    "a range that a sibling evicts": Bug(
        "1:x 1:L", "no order", replaced(eviction, await_group=nothing), {**TWO_LINES, **OWNED}
    ),
    "a dead rank's range is awaited for ever": Bug(
        "1:x 2:l", "stuck", replaced(line_cache, peer_is_dead=nothing), OWNED, kills=1, is_slow=True
    ),
    "a range that a sibling evicts behind a death": Bug(
        "1:xl 1:a 2:l",
        "no order",
        replaced(eviction, hold=hold_what_is_taken),
        {"version_bits": 0, **OWNED},
        kills=1,
        model="sequential",
        mortal=(2,),
        is_slow=True,
    ),
    "an upgrade without a claim": Bug(
        "1:la 1:L", "data race", replaced(eviction, claimed=claimed_but_for_upgrades), TWO_LINES
    ),
    "a claim without a new version": Bug(
        "1:l 1:Ll", "no order", replaced(eviction, claimed=claimed_without_version), TWO_LINES
    ),
    "a version of three bits that wraps": Bug(
        "1:l 1:lLlLlLlLl",
        "no order",
        nothing,
        {**TWO_LINES, "version_bits": 4},
        {"version_bits": 3},
        model="sequential",
    ),
    "a lock taken from the living": Bug("1:a 2:a", "", replaced(directory, peer_is_dead=always)),
    "a dead rank's lock is never taken": Bug(
        "1:a 2:a", "stuck", replaced(directory, peer_is_dead=nothing), kills=1, is_slow=True
    ),
    "a dead rank's pinned copy is never taken": Bug(
        "1:a 2:a", "stuck", replaced(line_cache, peer_is_dead=nothing), kills=1, is_slow=True
    ),
    "the owner's copy ends before the next is named": Bug(
        "1:a 2:a", "no copy", replaced(transaction, let_owner_go=let_owner_go_first), kills=1
    ),
    "the home's memory changes before its word": Bug(
        "0:a 1:la 2:ll",
        "no order",
        replaced(transaction, name_holders=nothing),
        {"version_bits": 0},
        kills=1,
        model="sequential",
        is_slow=True,
    ),
    "a copy given back ends before the directory's word": Bug(
        "1:L 2:a", "", replaced(eviction, give_back=give_back_first), EVICTED, kills=1
    ),
    "a copy that a dead rank has taken is never given back": Bug(
        "1:L 2:a", "stuck", replaced(eviction, give_back=leave_what_is_taken), EVICTED, kills=1, mortal=(1,)
    ),
    "a copy that a dead rank had begun to take is never given back": Bug(
        "1:L 2:a", "stuck", replaced(eviction, hold=hold_when_free), EVICTED, kills=1, mortal=(1,)
    ),
    "a copy that a dead rank had begun to take is never taken": Bug(
        "2:a 3:l", "stuck", replaced(transaction, take=take_when_free), {"num_ranks": 4, **OWNED}, kills=1
    ),
}
CASES = [pytest.param(name, marks=pytest.mark.soak) if bug.is_slow else name for name, bug in BUGS.items()]


@functools.cache
def unmodified(lanes, model, kills, mortal, *fields):
    """The verdict on the kernels as they are; several bugs have one control."""
    return search(Small(**dict(fields)), lanes, model, kills, mortal=mortal)


@pytest.mark.parametrize("name", CASES)
def test_a_planted_bug_is_found_beside_its_control(name, monkeypatch):
    bug = BUGS[name]
    control = unmodified(bug.lanes, bug.model, bug.kills, bug.mortal, *bug.world.items())
    assert (control.result, control.bug) == (Result.EXHAUSTED, "")
    bug.plant(monkeypatch)
    small = Small(**{**bug.world, **bug.wrong})
    verdict = search(small, bug.lanes, bug.model, bug.kills, mortal=bug.mortal)
    assert verdict.result is Result.BUG and bug.found in verdict.bug, verdict.bug
    assert verdict.trace, "with the way to it"


FLAG = 1 << 40  # a word that orders a sibling's addition before the home's load


def add_one(cache, address):
    """An addition that gets the line."""
    typed.coherent_fetch_add_i64(cache, address, 1)


def add_and_tell(cache, address):
    """A sibling's addition, and then the flag."""
    typed.coherent_fetch_add_i64(cache, address, 1)
    store_release_i64(FLAG, 0, 1)


def load_when_told(cache, address):
    """What the home loads once the flag is up; -1 before."""
    if load_acquire_i64(FLAG, 0) == 1:
        _, value = typed.coherent_load_i64(cache, address)
        return value
    return -1


def test_an_owner_that_the_home_does_not_know_yet_is_found(monkeypatch):
    small = Small(num_ranks=2)
    line = small.line(0)
    lanes = [(add_one, small.cache(1), line), (add_and_tell, small.cache(1), line)]
    lanes.append((load_when_told, small.cache(0), line))

    def fresh(results, memory):
        return "the home reads what was before the flag" if results[2] == small.initial(0) else None

    def verdict():
        memory = {**small.memory, FLAG: 0}
        return explore(lanes, memory, fresh, model="sequential", constants=small.constants)

    control = verdict()
    assert (control.result, control.bug) == (Result.EXHAUSTED, "")
    monkeypatch.setattr(transaction, "publish", publish_tag_first)
    assert "before the flag" in verdict().bug


SRC = 1 << 41  # a word of the lane's own, which a range is written from


def store_both(cache, first, second):
    """Two stores into copies that this rank owns."""
    world.coherent_store_i64(cache, first, 1)
    world.coherent_store_i64(cache, second, 2)


def store_and_write(cache, first, second):
    """The same, the second one as a range."""
    world.coherent_store_i64(cache, first, 1)
    span.coherent_write(cache, second, SRC, 8)


def load_both(cache, first, second):
    """What a sibling finds, the later store first."""
    _, later = world.coherent_load_i64(cache, second)
    _, earlier = world.coherent_load_i64(cache, first)
    return later, earlier


@pytest.mark.parametrize(
    ("stores", "plant"),
    [
        (store_both, remade(put=put_relaxed)),
        (store_and_write, replaced(span, copy_in=copy_in_relaxed, write_run=nothing)),
    ],
    ids=["a store", "a range"],
)
def test_what_is_put_in_place_and_publishes_nothing_is_found(stores, plant, monkeypatch):
    small = Small(num_ranks=2, num_ways=2, **TWO_LINES, **OWNED)
    lanes = [(lane, small.cache(1), small.line(0), small.line(1)) for lane in (stores, load_both)]
    memory = {**small.memory, SRC: 2, small.pin(1): 0}
    constants = {word: value for word, value in small.constants.items() if word not in memory}

    def ordered(results, memory):
        later, earlier = results[1]
        return "the later one is seen alone" if later == 2 and earlier != 1 else None

    def verdict():
        return explore(lanes, memory, ordered, constants=constants)

    control = verdict()
    assert (control.result, control.bug) == (Result.EXHAUSTED, "")
    plant(monkeypatch)
    assert "seen alone" in verdict().bug


find_room = eviction.find_room


def find_any_room(cache, geometry, line, its_set):
    """`find_room` that takes free slots in turn, as siblings do where the whole set is full."""
    slot = find_room(cache, geometry, line, its_set)
    tag = load_acquire_i64(line_cache.tag_address(geometry, slot), 0)
    if tag & words.TAG_STATE_MASK == words.INVALID and not line_cache.is_of_line(tag, line):
        clock = load_relaxed_i64(cache, words.CACHE_CLOCK)
        store_relaxed_i64(cache, words.CACHE_CLOCK, clock + 1)
        slot = line_cache.first_slot(geometry, line) ^ (clock & 1)
    return slot


def test_siblings_that_claim_two_slots_for_a_line_are_found(monkeypatch):
    for module in (eviction, supply):
        monkeypatch.setattr(module, "find_room", find_any_room)
    control = search(Small(num_ways=2), "1:a 1:a")
    assert (control.result, control.bug) == (Result.EXHAUSTED, "")
    monkeypatch.setattr(eviction, "has_other_slot", nothing)
    assert search(Small(num_ways=2), "1:a 1:a").result is Result.BUG
