"""The memory models: which outcomes of the classic litmus programs they allow, and which they never show.

Expected outcomes: Batty et al., "Mathematizing C++ concurrency" (POPL 2011), and Lahav et al. (PLDI 2017), less
load buffering, which a model without promises does not have.
"""

from __future__ import annotations

import random

import pytest

from umem.kernels.intrinsics.scalar import (
    exchange_i64,
    fence_acquire,
    fence_release,
    fence_seq_cst,
    fetch_add_relaxed_i64,
    load_acquire_i64,
    load_relaxed_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.verify import Result, explore

X, Y, Z = 64, 128, 192
RELAXED = load_relaxed_i64, store_relaxed_i64
ORDERED = load_acquire_i64, store_release_i64


def run(actions):
    """A lane of loads `(load, address)`, stores `(store, address, value)` and fences; what it has loaded."""
    seen = ()
    index = 0
    while index < len(actions):
        action = actions[index]
        if len(action) == 1:
            action[0]()
        elif len(action) == 2:
            seen += (action[0](action[1], 0),)
        else:
            old = action[0](action[1], 0, action[2])
            if old is not None:
                seen += (old,)
        index += 1
    return seen


def store_buffering(load, store, *fence):
    return [((store, X, 1), *fence, (load, Y)), ((store, Y, 1), *fence, (load, X))]


def message_passing(load, store):
    return [((store_relaxed_i64, X, 1), (store, Y, 1)), ((load, Y), (load_relaxed_i64, X))]


def message_passing_by_fences(before, behind):
    write = ((store_relaxed_i64, X, 1), *before, (store_relaxed_i64, Y, 1))
    return [write, ((load_relaxed_i64, Y), *behind, (load_relaxed_i64, X))]


def independent_reads(load, store, *fence):
    readers = [((load, a), *fence, (load, b)) for a, b in ((X, Y), (Y, X))]
    return [((store, X, 1),), ((store, Y, 1),), *readers]


def load_buffering(load, store):
    return [((load, X), (store, Y, 1)), ((load, Y), (store, X, 1))]


def causality(load, store):
    """ISA2: by way of a second flag."""
    return [
        ((store_relaxed_i64, X, 1), (store, Y, 1)),
        ((load, Y), (store, Z, 1)),
        ((load, Z), (load_relaxed_i64, X)),
    ]


def write_to_read(load, store):
    """WRC."""
    return [((store, X, 1),), ((load, X), (store, Y, 1)), ((load, Y), (load_relaxed_i64, X))]


def release_sequence(update):
    """The flag that is read was written by an update of the one that was released."""
    write = ((store_relaxed_i64, X, 1), (store_release_i64, Y, 1))
    return [write, ((update, Y, 1),), ((load_acquire_i64, Y), (load_relaxed_i64, X))]


def coherence(load, store):
    """CoRR."""
    return [((store, X, 1),), ((load, X), (load, X))]


FENCE = (fence_seq_cst,)
# name: (lanes, an outcome of all loads in order, whether weak memory allows it, whether sequential memory does)
LITMUS = {
    "SB": (store_buffering(*ORDERED), (0, 0), True, False),
    "SB, fences": (store_buffering(*RELAXED, FENCE), (0, 0), False, False),
    "MP, relaxed": (message_passing(*RELAXED), (1, 0), True, False),
    "MP": (message_passing(*ORDERED), (1, 0), False, False),
    "MP, release only": (message_passing(load_relaxed_i64, store_release_i64), (1, 0), True, False),
    "MP, fences": (message_passing_by_fences([(fence_release,)], [(fence_acquire,)]), (1, 0), False, False),
    "MP, one fence": (message_passing_by_fences([(fence_release,)], []), (1, 0), True, False),
    "IRIW": (independent_reads(*ORDERED), (1, 0, 1, 0), True, False),
    "IRIW, fences": (independent_reads(*RELAXED, FENCE), (1, 0, 1, 0), False, False),
    "LB": (load_buffering(*RELAXED), (1, 1), False, False),
    "ISA2": (causality(*ORDERED), (1, 1, 0), False, False),
    "ISA2, relaxed": (causality(*RELAXED), (1, 1, 0), True, False),
    "WRC": (write_to_read(*ORDERED), (1, 1, 0), False, False),
    "WRC, relaxed": (write_to_read(*RELAXED), (1, 1, 0), True, False),
    "release sequence": (release_sequence(fetch_add_relaxed_i64), (1, 2, 0), False, False),
    "release sequence, exchanged": (release_sequence(exchange_i64), (1, 1, 0), False, False),
    "CoRR": (coherence(*RELAXED), (1, 0), False, False),
}
WORDS = {X: 0, Y: 0, Z: 0}


def outcomes(lanes, model, reduces=True):
    """All that the loads may see, and what memory holds then."""
    verdict = explore([(run, actions) for actions in lanes], WORDS, model=model, reduces=reduces)
    assert verdict.result is Result.EXHAUSTED, verdict.bug
    return {(sum(results, ()), tuple(memory.items())) for results, memory in verdict.outcomes}


@pytest.mark.parametrize("name", LITMUS)
def test_the_models_allow_what_they_should(name):
    lanes, outcome, *is_allowed = LITMUS[name]
    for model, allowed in zip(("weak", "sequential"), is_allowed, strict=True):
        found = {seen for seen, _ in outcomes(lanes, model)}
        assert (outcome in found) == allowed, (model, sorted(found))


@pytest.mark.parametrize("name", LITMUS)
def test_steps_that_go_first_lose_no_outcome(name):
    lanes = LITMUS[name][0]
    for model in ("weak", "sequential"):
        assert outcomes(lanes, model) == outcomes(lanes, model, reduces=False)


@pytest.mark.parametrize("name", LITMUS)
def test_weak_memory_allows_whatever_sequential_memory_does(name):
    lanes = LITMUS[name][0]
    assert outcomes(lanes, "sequential") <= outcomes(lanes, "weak")


ACTIONS = [
    *((load, place) for load in (load_relaxed_i64, load_acquire_i64) for place in (X, Y)),
    *((store, place, 1) for store in (store_relaxed_i64, store_release_i64) for place in (X, Y)),
    *((update, place, 1) for update in (exchange_i64, fetch_add_relaxed_i64) for place in (X, Y)),
    *((fence,) for fence in (fence_acquire, fence_release, fence_seq_cst)),
]


@pytest.mark.parametrize("seed", range(30))
def test_steps_that_go_first_lose_no_outcome_of_any_program(seed):
    rng = random.Random(seed)
    lanes = []
    for lane in range(2 + seed % 2):
        actions = rng.choices(ACTIONS, k=3 - seed % 2)
        # Each store has a value of its own, or one that is lost is not missed.
        lanes.append(
            tuple((*act[:2], 10 * lane + i + 1) if len(act) == 3 else act for i, act in enumerate(actions))
        )
    assert outcomes(lanes, "weak") == outcomes(lanes, "weak", reduces=False)
