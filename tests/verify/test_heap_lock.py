"""The heap's lock, model-checked as it runs: mutual exclusion, and taking it from the dead and only from them.

What follows a broken lock (`rebuild`, `reclaim`) works on the arena's tables; here a note that it ran stands for it.
"""

from __future__ import annotations

import pytest

from umem.agent.serving.liveness import publish_death
from umem.kernels.build.variants import variant
from umem.kernels.heap import lock
from umem.kernels.heap.layout import ARENA_LOCK, ARENA_NUM_BREAKS, ARENA_RECLAIMED
from umem.kernels.intrinsics.scalar import (
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.page import control
from umem.kernels.page.control import (
    CONTROL_EPOCH,
    CONTROL_NUM_RANKS,
    CONTROL_PEER_STATE,
    CONTROL_SPIN_ROUNDS,
    CONTROL_STOP,
    DEAD,
)
from umem.kernels.status import OK
from umem.verify import Result, explore

ARENA, PAGE, DATA, ENDED, REBUILT, RECLAIMED = 1 << 16, 1 << 20, 64, 128, 192, 256
LOCK = ARENA + 8 * ARENA_LOCK
VICTIM = 1  # the rank that dies
HOLDERS = [rank + 1 | 7 << lock.HOLDER_INCARNATION_SHIFT for rank in range(3)]
WORDS = {LOCK: 0, DATA: 0, ENDED: 0, REBUILT: 0, RECLAIMED: 0, ARENA + 8 * ARENA_NUM_BREAKS: 0}
BITS = {ARENA + 8 * ARENA_RECLAIMED: 0}
STATES = {PAGE + 8 * (CONTROL_PEER_STATE + rank): control.ALIVE for rank in range(3)}
EPOCH_WORD = {PAGE + 8 * CONTROL_EPOCH: 0}
CONSTANTS = {PAGE + 8 * CONTROL_NUM_RANKS: 3, PAGE + 8 * CONTROL_SPIN_ROUNDS: 0, PAGE + 8 * CONTROL_STOP: 0}


def note_rebuilt(arena):
    """In place of `rebuild`, with the lock held."""
    store_i64(REBUILT, 0, load_i64(REBUILT, 0) + 1)


def note_reclaimed(arena, rank, freed):
    """In place of `reclaim`, with the lock held."""
    store_i64(RECLAIMED, 0, load_i64(RECLAIMED, 0) + 1)


acquire = variant(lock.acquire_arena, "acquire_arena_noted", rebuild=note_rebuilt)
reclaim_dead = variant(
    lock.heap_reclaim_dead, "reclaim_dead_noted", acquire_arena=acquire, reclaim=note_reclaimed
)


def add_under_lock(rank, num_rounds, take=acquire):
    """Add to DATA, plainly, with the lock held."""
    done = 0
    while done < num_rounds:
        code = take(PAGE, ARENA, HOLDERS[rank])
        assert code == OK, code
        store_i64(DATA, 0, load_i64(DATA, 0) + 1)
        lock.release_arena(ARENA)
        done += 1


def die_with_lock():
    """Add to DATA and end with the lock held: the store to ENDED is the end, which the kernel tells of."""
    code = acquire(PAGE, ARENA, HOLDERS[VICTIM])
    assert code == OK, code
    store_i64(DATA, 0, load_i64(DATA, 0) + 1)
    store_release_i64(ENDED, 0, 1)


def confirm_death():
    """An agent that learns of the end and publishes it."""
    while load_acquire_i64(ENDED, 0) == 0:
        pass
    publish_death(PAGE, VICTIM)


def total(num_adds):
    return lambda results, memory: (
        None if memory[DATA] == num_adds else f"{memory[DATA]} of {num_adds} additions"
    )


@pytest.mark.parametrize("model", ["sequential", "weak"])
@pytest.mark.parametrize(("num_lanes", "num_rounds"), [(2, 2), (3, 1)])
def test_the_lock_excludes(model, num_lanes, num_rounds):
    lanes = [(add_under_lock, rank, num_rounds) for rank in range(num_lanes)]
    verdict = explore(
        lanes, WORDS, total(num_lanes * num_rounds), model=model, constants={**CONSTANTS, **STATES}
    )
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert all(memory[REBUILT] == 0 for _, memory in verdict.outcomes), "nobody is dead"


@pytest.mark.parametrize("model", ["sequential", "weak"])
def test_the_lock_of_a_dead_rank_is_taken_with_all_that_it_wrote(model):
    lanes = [(add_under_lock, 0, 1), (die_with_lock,), (confirm_death,)]
    words = {**WORDS, **STATES, **EPOCH_WORD}
    verdict = explore(lanes, words, total(2), model=model, constants=CONSTANTS)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {memory[REBUILT] for _, memory in verdict.outcomes} == {0, 1}, (
        "broken where it was held at the death"
    )


@pytest.mark.parametrize("model", ["sequential", "weak"])
def test_the_dead_are_reclaimed_once(model):
    page = {PAGE + 8 * (CONTROL_PEER_STATE + VICTIM): DEAD}
    words = {**WORDS, **BITS}
    lanes = [(reclaim_dead, PAGE, ARENA, HOLDERS[rank], 0) for rank in (0, 2)]
    verdict = explore(lanes, words, model=model, constants={**CONSTANTS, **STATES, **page})
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {memory[RECLAIMED] for _, memory in verdict.outcomes} == {1}


# --- planted


def is_dead_relaxed(page, rank):
    """A look at who is dead that orders nothing behind it."""
    return 1 if load_relaxed_i64(page, CONTROL_PEER_STATE + rank) == DEAD else 0


def release_relaxed(arena):
    """A release that orders nothing before it."""
    store_relaxed_i64(arena, ARENA_LOCK, 0)


def test_a_look_at_the_dead_that_does_not_acquire_is_found():
    take = variant(acquire, "acquire_arena_careless", peer_is_dead=is_dead_relaxed)
    lanes = [(add_under_lock, 0, 1, take), (die_with_lock,), (confirm_death,)]
    verdict = explore(lanes, {**WORDS, **STATES, **EPOCH_WORD}, constants=CONSTANTS)
    assert verdict.result is Result.BUG and "data race" in verdict.bug


def test_a_release_that_does_not_release_is_found(monkeypatch):
    monkeypatch.setattr(lock, "release_arena", release_relaxed)
    lanes = [(add_under_lock, rank, 1) for rank in range(2)]
    verdict = explore(lanes, WORDS, constants={**CONSTANTS, **STATES})
    assert verdict.result is Result.BUG and "data race" in verdict.bug


def test_a_lock_that_is_taken_from_the_living_is_found():
    take = variant(acquire, "acquire_arena_rude", peer_is_dead=lambda page, rank: 1)
    lanes = [(add_under_lock, rank, 1, take) for rank in range(2)]
    verdict = explore(lanes, WORDS, total(2), model="sequential", constants={**CONSTANTS, **STATES})
    assert verdict.result is Result.BUG
