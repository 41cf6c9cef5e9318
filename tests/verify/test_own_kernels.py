"""umem's own kernels, model-checked as they run: every interleaving of two or three lanes in weak memory."""

from __future__ import annotations

import pytest

from umem.kernels.intrinsics.scalar import (
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.intrinsics.system import futex_wake
from umem.kernels.page import barrier, signal
from umem.kernels.page.barrier import FLAG_LINE_WORDS, GROUP_LINES, world_barrier
from umem.kernels.page.control import (
    CONTROL_BARRIER,
    CONTROL_EPOCH,
    CONTROL_META_BASE,
    CONTROL_META_STRIDE_LOG2,
    CONTROL_NUM_RANKS,
    CONTROL_RANK,
    CONTROL_SPIN_ROUNDS,
    CONTROL_STOP,
)
from umem.kernels.status import OK
from umem.verify import Result, explore

WORD, DATA = 4096, 8192
PAGES, STRIDE_LOG2 = 1 << 20, 17


def constants_of(page: int, rank: int, num_ranks: int) -> dict[int, int]:
    """What waits and barriers read in a control page: nobody dies, and nobody polls for long."""
    fixed = {CONTROL_RANK: rank, CONTROL_NUM_RANKS: num_ranks}
    pages = {CONTROL_META_BASE: PAGES, CONTROL_META_STRIDE_LOG2: STRIDE_LOG2}
    words = {**fixed, **pages, CONTROL_SPIN_ROUNDS: 0, CONTROL_STOP: 0, CONTROL_EPOCH: 7}
    return {page + 8 * index: value for index, value in words.items()}


# --- signals


def tell(data, value, post):
    """Store plainly, then post."""
    store_i64(data, 0, 10 * value)
    post(WORD, value)


def hear(value):
    """Wait, then load plainly what was stored before the post."""
    code = signal.wait_signal(PAGES, WORD, value, 0, 7, 1 << 30)
    assert code == OK, code
    return load_i64(DATA, 0)


def post_without_mark(word, value):
    """`post` with a plain release store: who has marked itself a sleeper in between is never woken."""
    if load_acquire_i64(word, 0) & 1:
        futex_wake(word, signal.ALL_SLEEPERS)
    store_release_i64(word, 0, value << 1)


def post_unordered(word, value):
    """`post` that publishes nothing."""
    sleeps = load_relaxed_i64(word, 0) & 1
    store_relaxed_i64(word, 0, value << 1)
    if sleeps:
        futex_wake(word, signal.ALL_SLEEPERS)


SIGNAL_WORDS = {WORD: 0, DATA: 0}
SIGNAL_PAGE = constants_of(PAGES, 0, 2)


def signal_program(post, num_waiters):
    return [(tell, DATA, 1, post), *[(hear, 1)] * num_waiters], SIGNAL_WORDS


@pytest.mark.parametrize("num_waiters", [1, 2])
@pytest.mark.parametrize("model", ["sequential", "weak"])
def test_a_signal_wakes_all_and_publishes(model, num_waiters):
    verdict = explore(*signal_program(signal.post, num_waiters), model=model, constants=SIGNAL_PAGE)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {results[1:] for results, _ in verdict.outcomes} == {(10,) * num_waiters}


def test_two_posters_wake_all():
    lanes = [(signal.post_add, WORD, 1), (signal.post_add, WORD, 1), (wait_for_two,)]
    verdict = explore(lanes, SIGNAL_WORDS, constants=SIGNAL_PAGE)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {memory[WORD] >> 1 for _, memory in verdict.outcomes} == {2}


def wait_for_two():
    return signal.wait_signal(PAGES, WORD, 2, 0, 7, 1 << 30)


def test_a_lost_wake_up_is_found():
    verdict = explore(*signal_program(post_without_mark, 1), model="sequential", constants=SIGNAL_PAGE)
    assert verdict.bug.startswith("stuck") and any(step.remark == "falls asleep" for step in verdict.trace)


def test_a_post_that_publishes_nothing_is_found():
    verdict = explore(*signal_program(post_unordered, 1), constants=SIGNAL_PAGE)
    assert "data race" in verdict.bug or verdict.bug.startswith("stuck")


# --- the barrier


def page_of(rank):
    return PAGES + (rank << STRIDE_LOG2)


def meet(rank, num_ranks, num_rounds):
    """Rounds of the world's barrier; after each one every rank's plain store of that round is there."""
    done = 0
    while done < num_rounds:
        store_i64(DATA + 64 * rank, 0, done + 1)
        code = world_barrier(page_of(rank), 7, 1 << 30)
        assert code == OK, code
        other = 0
        while other < num_ranks:
            seen = load_i64(DATA + 64 * other, 0)
            assert seen == done + 1, f"rank {other} is in round {seen}, not {done + 1}"
            other += 1
        done += 1
        if done < num_rounds:  # before anyone stores again
            code = world_barrier(page_of(rank), 7, 1 << 30)
            assert code == OK, code


def barrier_words(num_ranks):
    """(words, constants)"""
    words, constants = {}, {}
    for rank in range(num_ranks):
        constants |= constants_of(page_of(rank), rank, num_ranks)
        words |= {
            page_of(rank) + 8 * (CONTROL_BARRIER + line * FLAG_LINE_WORDS): 0 for line in range(GROUP_LINES)
        }
        words[DATA + 64 * rank] = 0
    return words, constants


@pytest.mark.parametrize(
    ("model", "num_ranks", "num_rounds"),
    [
        ("sequential", 2, 2),
        ("sequential", 3, 1),
        ("weak", 2, 2),
        pytest.param("weak", 3, 1, marks=pytest.mark.soak),
    ],
)
def test_the_barrier_holds_all(model, num_ranks, num_rounds):
    lanes = [(meet, rank, num_ranks, num_rounds) for rank in range(num_ranks)]
    words, constants = barrier_words(num_ranks)
    watches_loads = num_ranks == 2  # of three it takes twice as long
    verdict = explore(lanes, words, model=model, constants=constants, watches_loads=watches_loads)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def does_not_wait(*arguments):
    """What stands for a look at a peer's flag that is always satisfied."""
    return 1


@pytest.mark.parametrize(
    ("name", "planted"),
    [("post", post_unordered), ("poll_eagerly", does_not_wait)],
    ids=["unordered", "early"],
)
def test_a_barrier_that_holds_nobody_is_found(monkeypatch, name, planted):
    lanes = [(meet, rank, 2, 1) for rank in range(2)]
    words, constants = barrier_words(2)
    control = explore(lanes, words, constants=constants)
    assert (control.result, control.bug) == (Result.EXHAUSTED, "")
    monkeypatch.setattr(barrier, name, planted)
    bug = explore(lanes, words, constants=constants).bug
    assert "data race" in bug or "is in round" in bug
