"""Programs that are right are exhausted; each planted bug is found beside its unmodified control."""

from __future__ import annotations

from functools import partial

import pytest

from umem.errors import ConfigError, ModelError
from umem.kernels.intrinsics.scalar import (
    exchange_i64,
    fence_acquire,
    fence_release,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.intrinsics.system import futex_wait, futex_wake
from umem.verify import KILLED, Result, explore, replay, walk

from . import kernels as k

LOCK_WORDS = {k.LOCK: 0, k.COUNTER: 0}
SEQUENCE_WORDS = {k.SEQUENCE: 0, k.LEFT: 0, k.RIGHT: 0}
STACK_WORDS = {k.TOP: k.FIRST, k.FIRST: k.SECOND, k.SECOND: 0}


def counts(wanted, results, memory):
    return None if memory[k.COUNTER] == wanted else f"the counter is {memory[k.COUNTER]}"


def stack_is_whole(results, memory):
    """No node is on the stack that a lane has taken and not given back."""
    on_stack, node = [], memory[k.TOP]
    while node and node not in on_stack:
        on_stack.append(node)
        node = memory[node]
    held = {results[0], results[1][1]} - {0}
    return f"{held & set(on_stack)} taken, and still on the stack" if held & set(on_stack) else None


def lock(unlock):
    return [(k.count_locked, unlock, 2)] * 3, LOCK_WORDS, partial(counts, 6)


def sequence_lock(write_fence, read_fence):
    lanes = [(k.publish, 2, write_fence), (k.read_both, read_fence), (k.read_both, read_fence)]
    return lanes, SEQUENCE_WORDS, None


def barrier(store, load, num_lanes=3):
    lanes = [(k.meet, lane, num_lanes, 2, store, load) for lane in range(num_lanes)]
    return lanes, {k.ARRIVED: 0, k.SENSE: 0, **{k.SLOT + 64 * lane: 0 for lane in range(num_lanes)}}, None


CONTROLS = {
    "lock": lock(store_release_i64),
    "sequence lock": sequence_lock(fence_release, fence_acquire),
    "barrier": barrier(store_release_i64, load_acquire_i64),
}
ORDERING_BUGS = {  # seen only where memory is weak
    "lock, relaxed unlock": (lock(store_relaxed_i64), "data race"),
    "sequence lock, no fence in the writer": (sequence_lock(k.no_fence, fence_acquire), "AssertionError"),
    "sequence lock, no fence in the reader": (sequence_lock(fence_release, k.no_fence), "AssertionError"),
    "barrier, relaxed release": (barrier(store_relaxed_i64, load_acquire_i64), "data race"),
    "barrier, relaxed wait": (barrier(store_release_i64, load_relaxed_i64), "data race"),
}


@pytest.mark.parametrize("model", ["sequential", "weak"])
@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_right_is_exhausted(name, model):
    verdict = explore(*CONTROLS[name], model=model)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize("name", ORDERING_BUGS)
def test_a_missing_order_is_found_where_memory_is_weak(name):
    program, bug = ORDERING_BUGS[name]
    assert explore(*program, model="sequential").result is Result.EXHAUSTED, (
        "an interleaving alone cannot show it"
    )
    verdict = explore(*program, model="weak")
    assert verdict.result is Result.BUG and bug in verdict.bug
    lanes, memory, final = program
    assert replay(lanes, memory, verdict.schedule, final) == verdict.bug


def test_lost_sums_are_found_in_every_memory():
    program = [(k.count_unlocked, 1)] * 2, LOCK_WORDS, partial(counts, 2)
    for model in ("sequential", "weak"):
        verdict = explore(*program, model=model)
        assert verdict.bug == "the counter is 1"
        assert len(verdict.trace) == 4, "the shortest way: both load before either stores"


def test_the_aba_bug_of_a_stack_is_found():
    lanes = [(k.pop,), (k.pop_two_push_one,)]
    verdict = explore(lanes, STACK_WORDS, stack_is_whole)
    assert verdict.result is Result.BUG and "still on the stack" in verdict.bug
    assert replay(lanes, STACK_WORDS, verdict.schedule, stack_is_whole) == verdict.bug
    control = explore([(k.pop,), (k.pop,), (k.push, k.THIRD)], {**STACK_WORDS, k.THIRD: 0})
    assert control.result is Result.EXHAUSTED


def test_a_wait_that_never_ends_is_found():
    verdict = explore([(k.hold_for_ever,), (k.count_locked, store_release_i64, 1)], LOCK_WORDS)
    assert verdict.result is Result.BUG and verdict.bug.startswith("stuck")


def test_a_kill_inside_a_lock_is_found_and_one_outside_harms_nobody():
    lanes, words, _ = lock(store_release_i64)
    assert explore(lanes[:2], words, kills=0).result is Result.EXHAUSTED
    verdict = explore(lanes[:2], words, kills=1)
    assert verdict.bug.startswith("stuck") and any(step.is_kill for step in verdict.trace)
    found = explore([(k.push, k.THIRD), (k.pop,)], {**STACK_WORDS, k.THIRD: 0}, kills=1)
    assert found.result is Result.EXHAUSTED, "a stack without locks goes on"
    assert any(results[0] is KILLED for results, _ in found.outcomes)


def test_a_limit_is_no_pass():
    verdict = explore(*CONTROLS["barrier"], limit_states=100)
    assert verdict.result is Result.LIMIT and verdict.num_states > 100


def test_random_walks_find_what_is_planted_and_clear_nobody():
    program, _ = ORDERING_BUGS["barrier, relaxed release"]
    assert walk(*program, walks=2000).result is Result.BUG
    clean = walk(*CONTROLS["barrier"], walks=50)
    assert clean.result is Result.LIMIT and clean.num_states > 50


@pytest.mark.parametrize("load", [load_i64, load_relaxed_i64, load_acquire_i64])
def test_a_plain_store_races_with_whatever_meets_it(load):
    def reader():
        return load(k.TOP, 0)

    verdict = explore([(k.store_plainly,), (reader,)], {k.TOP: 0})
    assert verdict.result is Result.BUG and "data race" in verdict.bug
    assert "data race" in explore([(k.store_plainly,), (k.add_one,)], {k.TOP: 0}).bug


def test_a_plain_store_that_a_release_publishes_races_with_nobody():
    def writer():
        store_i64(k.FIRST, 0, 7)
        store_release_i64(k.TOP, 0, 1)

    def reader():
        return load_relaxed_i64(k.FIRST, 0) if load_acquire_i64(k.TOP, 0) else 7

    def final(results, memory):
        return None if results[1] == 7 else "stale"

    verdict = explore([(writer,), (reader,)], {k.TOP: 0, k.FIRST: 0}, final)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize("model", ["sequential", "weak"])
def test_a_kill_before_a_wake_up_is_met(model):
    lanes, words = [(k.post,), (k.post,), (k.await_post,)], {k.TOP: 0}
    assert explore(lanes, words, model=model).result is Result.EXHAUSTED
    verdict = explore(lanes, words, model=model, kills=1, mortal=(0,))
    assert verdict.bug.startswith("stuck")
    assert any(step.is_kill and step.operation.kind == "futex_wake" for step in verdict.trace)
    only_sleepers_die = explore(lanes, words, model=model, kills=1, mortal=(2,))
    assert only_sleepers_die.result is Result.EXHAUSTED
    assert any(results[2] is KILLED for results, _ in only_sleepers_die.outcomes)


def test_an_access_in_a_handler_is_no_bug_of_the_kernel():
    with pytest.raises(ModelError, match="inside an exception handler has no model: load_in_handler"):
        explore([(k.load_in_handler,)], {k.TOP: 0})


def test_walks_kill_too():
    lanes, words, _ = lock(store_release_i64)

    def final(results, memory):
        return "one was killed" if KILLED in results else None

    assert walk(lanes, words, final, walks=200).result is Result.LIMIT
    assert walk(lanes, words, final, walks=200, kills=1, mortal=()).result is Result.LIMIT
    stack = [(k.push, k.THIRD), (k.pop,)], {**STACK_WORDS, k.THIRD: 0}
    assert walk(*stack, final, walks=200, kills=1).bug == "one was killed"


@pytest.mark.parametrize(
    ("hand_over", "take_over", "is_race"),
    [
        (store_release_i64, load_acquire_i64, False),
        (store_relaxed_i64, load_acquire_i64, True),
        (store_release_i64, load_relaxed_i64, True),
    ],
)
@pytest.mark.parametrize("store", [store_i64, store_relaxed_i64, exchange_i64])
def test_a_plain_load_that_is_over_before_the_store_may_still_race(hand_over, take_over, store, is_race):
    """The store never comes first: it waits for a word that the reader stores behind its load."""

    def reader():
        seen = load_i64(k.FIRST, 0)
        hand_over(k.TOP, 0, 1)
        return seen

    def writer():
        while take_over(k.TOP, 0) == 0:
            pass
        store(k.FIRST, 0, 2)

    lanes, words = [(reader,), (writer,)], {k.TOP: 0, k.FIRST: 1}
    verdict = explore(lanes, words)
    assert (verdict.result is Result.BUG) == is_race
    if is_race:
        assert "a store meets a load of lane 0" in verdict.bug
        assert replay(lanes, words, verdict.schedule) == verdict.bug
    assert explore(lanes, words, watches_loads=False).result is Result.EXHAUSTED


def test_only_the_last_plain_load_of_a_lane_needs_to_be_known():
    """Each round the reader hands the word over, and the writer hands it back with another value."""

    def reader():
        done = 0
        while done < 2:
            assert load_i64(k.FIRST, 0) == done
            store_release_i64(k.TOP, 0, 2 * done + 1)
            while load_acquire_i64(k.TOP, 0) == 2 * done + 1:
                pass
            done += 1

    def writer():
        done = 0
        while done < 2:
            while load_acquire_i64(k.TOP, 0) != 2 * done + 1:
                pass
            done += 1
            store_i64(k.FIRST, 0, done)
            store_release_i64(k.TOP, 0, 2 * done)

    verdict = explore([(reader,), (writer,)], {k.TOP: 0, k.FIRST: 0})
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def test_a_relaxed_load_before_a_plain_store_may_race_too():
    def reader():
        seen = load_relaxed_i64(k.FIRST, 0)
        store_relaxed_i64(k.TOP, 0, 1)
        return seen

    def writer():
        while load_relaxed_i64(k.TOP, 0) == 0:
            pass
        store_i64(k.FIRST, 0, 2)

    assert "a store meets a load of lane 0" in explore([(reader,), (writer,)], {k.TOP: 0, k.FIRST: 1}).bug


@pytest.mark.parametrize("reduces", [True, False])
def test_a_wake_up_that_only_weak_memory_loses_is_found(reduces):
    """Who posts looks whether anybody sleeps, without a fence between."""

    def sleeper():
        store_relaxed_i64(k.FIRST, 0, 1)
        while load_acquire_i64(k.TOP, 0) == 0:
            futex_wait(k.TOP, 0, 1_000_000_000)

    def poster(fence):
        store_release_i64(k.TOP, 0, 1)
        fence()
        if load_relaxed_i64(k.FIRST, 0):
            futex_wake(k.TOP, 1)

    words = {k.TOP: 0, k.FIRST: 0}
    lanes = [(sleeper,), (poster, k.no_fence)]
    assert explore(lanes, words, model="sequential").result is Result.EXHAUSTED
    assert explore(lanes, words, reduces=reduces).bug.startswith("stuck")


def test_who_waits_for_ever_is_not_excused_by_a_death():
    def poster():
        store_release_i64(k.TOP, 0, 1)

    lanes, words = [(k.await_post,), (poster,)], {k.TOP: 0}
    for kills in (0, 1):
        assert explore(lanes, words, model="sequential", kills=kills, mortal=(0,)).bug.startswith("stuck")


def test_a_local_that_only_a_handler_reads_counts():
    def reader():
        seen = load_relaxed_i64(k.FIRST, 0)
        try:
            assert load_relaxed_i64(k.TOP, 0)
        except AssertionError:
            return seen
        return -1

    def writer():
        store_relaxed_i64(k.FIRST, 0, 1)

    verdict = explore([(reader,), (writer,)], {k.TOP: 0, k.FIRST: 0})
    assert {results[0] for results, _ in verdict.outcomes} == {0, 1}


def test_deaths_are_told_by_words_of_the_memory():
    with pytest.raises(ConfigError, match="0x3e7; put it into `memory`"):
        explore([(k.add_one,)], {k.TOP: 0}, kills=1, deaths={0: {999: 1}})


def test_the_last_step_of_a_race_is_the_one_that_is_wrong():
    def relaxed():
        store_relaxed_i64(k.TOP, 0, 2)

    def plain():
        return load_i64(k.TOP, 0)

    lanes, words = [(plain,), (k.store_plainly,), (relaxed,)], {k.TOP: 0}
    verdict = explore(lanes, words)
    assert verdict.bug.startswith(f"lane {verdict.trace[-1].lane}: data race")
    assert replay(lanes, words, verdict.schedule) == verdict.bug
