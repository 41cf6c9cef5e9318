"""Small lock-free kernels, right and with one thing wrong: what a model checker must tell apart."""

from __future__ import annotations

from umem.kernels.intrinsics.scalar import (
    compare_swap_i64,
    exchange_i64,
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.intrinsics.system import futex_wait, futex_wake, pause

LOCK, COUNTER = 64, 128
SEQUENCE, LEFT, RIGHT = 64, 128, 192
ARRIVED, SENSE, SLOT = 64, 128, 256
TOP, FIRST, SECOND, THIRD = 64, 128, 192, 256


# --- a lock


def count_locked(unlock, num_rounds):
    """Add to COUNTER under a spin lock that `unlock` opens."""
    done = 0
    while done < num_rounds:
        while compare_swap_i64(LOCK, 0, 0, 1) != 0:
            pause()
        store_i64(COUNTER, 0, load_i64(COUNTER, 0) + 1)
        unlock(LOCK, 0, 0)
        done += 1


def count_unlocked(num_rounds):
    """Add to COUNTER without a lock, by ordered accesses, which do not race but lose sums."""
    done = 0
    while done < num_rounds:
        store_release_i64(COUNTER, 0, load_acquire_i64(COUNTER, 0) + 1)
        done += 1


# --- a sequence lock


def publish(num_rounds, fence):
    """LEFT = RIGHT = 1, 2, ...: two words that readers find equal."""
    value = 1
    while value <= num_rounds:
        sequence = load_relaxed_i64(SEQUENCE, 0)
        store_relaxed_i64(SEQUENCE, 0, sequence + 1)
        fence()
        store_relaxed_i64(LEFT, 0, value)
        store_relaxed_i64(RIGHT, 0, value)
        store_release_i64(SEQUENCE, 0, sequence + 2)
        value += 1


def read_both(fence):
    """The value of both words, at one moment."""
    while True:
        sequence = load_acquire_i64(SEQUENCE, 0)
        if sequence & 1 == 0:
            left, right = load_relaxed_i64(LEFT, 0), load_relaxed_i64(RIGHT, 0)
            fence()
            if load_relaxed_i64(SEQUENCE, 0) == sequence:
                assert left == right, (left, right)
                return left


def no_fence():
    """What is planted in place of a fence."""


# --- a barrier


def arrive(sense, num_lanes, store, load):
    """One crossing: the last lane to arrive turns SENSE, for which the others wait."""
    if fetch_add_i64(ARRIVED, 0, 1) == num_lanes - 1:
        store_relaxed_i64(ARRIVED, 0, 0)
        store(SENSE, 0, sense)
    else:
        while load(SENSE, 0) != sense:
            pause()


def meet(lane, num_lanes, num_rounds, store, load):
    """Rounds of a sense-reversing barrier; between them each lane reads what its neighbour wrote before."""
    sense = 0
    done = 0
    while done < num_rounds:
        store_i64(SLOT + 64 * lane, 0, done + 1)
        sense = 1 - sense
        arrive(sense, num_lanes, store, load)
        seen = load_i64(SLOT + 64 * ((lane + 1) % num_lanes), 0)
        assert seen == done + 1, f"round {done + 1}: the neighbour was in {seen}"
        sense = 1 - sense
        arrive(sense, num_lanes, store, load)
        done += 1


# --- a stack


def push(node, swap=compare_swap_i64):
    """Put `node`, whose first word names the next one, on the stack at TOP."""
    while True:
        top = load_relaxed_i64(TOP, 0)
        store_relaxed_i64(node, 0, top)
        if swap(TOP, 0, top, node) == top:
            return


def pop():
    """Take the node on top; 0 where there is none."""
    while True:
        top = load_acquire_i64(TOP, 0)
        if top == 0:
            return 0
        below = load_relaxed_i64(top, 0)
        if compare_swap_i64(TOP, 0, top, below) == top:
            return top


def pop_two_push_one():
    """What another lane's `pop` must not overlook: the same node is on top again, over another one."""
    first, second = pop(), pop()
    if first:
        push(first)
    return first, second


# --- a lock that its holder may not leave


def hold_for_ever():
    """Take LOCK and end."""
    exchange_i64(LOCK, 0, 1)


def store_plainly():
    """A store that is neither atomic nor ordered."""
    store_i64(TOP, 0, 1)


def add_one():
    """An atomic update."""
    return fetch_add_i64(TOP, 0, 1)


def post():
    """The first to post wakes who sleeps."""
    if exchange_i64(TOP, 0, 1) == 0:
        futex_wake(TOP, 1)


def await_post():
    """Sleep until somebody has posted."""
    while load_acquire_i64(TOP, 0) == 0:
        futex_wait(TOP, 0, 1_000_000_000)


def load_in_handler():
    """An access where the interpreter keeps an exception."""
    try:
        assert load_acquire_i64(TOP, 0)
    except AssertionError:
        return load_acquire_i64(TOP, 0)
    return 0
