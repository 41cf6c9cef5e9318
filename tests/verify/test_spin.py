"""Kernels with accesses in the middle of expressions: waits are loops of states, and what has no model is refused."""

from __future__ import annotations

import functools
import itertools

import pytest

from umem.errors import ModelError
from umem.kernels.intrinsics.scalar import (
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.intrinsics.system import pause
from umem.verify import Program, Result, explore
from umem.verify.kernel.command import lines_of

HEAD, TAIL, CELLS = 64, 128, 256


def produce(num_items, publish):
    sent = 0
    while sent < num_items:
        while sent - load_acquire_i64(HEAD, 0) >= 2:
            pause()
        store_i64(CELLS, sent % 2, 10 + sent)
        sent += 1
        publish(TAIL, 0, sent)


def consume(num_items, publish):
    taken = 0
    while taken < num_items:
        while load_acquire_i64(TAIL, 0) - taken == 0:
            pause()
        assert load_i64(CELLS, taken % 2) == 10 + taken
        taken += 1
        publish(HEAD, 0, taken)


RING = {HEAD: 0, TAIL: 0, CELLS: 1, CELLS + 8: 2}


def test_a_ring_that_waits_in_the_middle_of_an_expression_is_exhausted():
    verdict = explore([(produce, 3, store_release_i64), (consume, 3, store_release_i64)], RING)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert verdict.num_states <= 64, "as many as with each load on a line of its own"


@pytest.mark.parametrize(
    "lanes",
    [
        [(produce, 3, store_relaxed_i64), (consume, 3, store_release_i64)],
        [(produce, 3, store_release_i64), (consume, 3, store_relaxed_i64)],
    ],
    ids=["tail", "head"],
)
def test_a_ring_that_publishes_nothing_is_found(lanes):
    assert "data race" in explore(lanes, RING).bug


def spin_on(wait):
    """A waiter beside one who stores what it waits for, and its verdict."""

    def teller():
        store_release_i64(TAIL, 0, 1)

    return explore([(wait,), (teller,)], {TAIL: 0}, limit_states=2000)


LOOKS = (lambda bit: 1 - load_acquire_i64(TAIL, 0) == bit, lambda bit: 3 - load_acquire_i64(TAIL, 0) == bit)


def waits_in_a_lambda():
    while LOOKS[0](1) or LOOKS[1](3):
        pause()


def waits_in_a_partial():
    while 1 - functools.partial(load_one_of, TAIL)(0):
        pass


def load_one_of(first, index):
    for address in (first, 0):
        if address:
            return 0 + load_acquire_i64(address, index)
    return None


@pytest.mark.parametrize("wait", [waits_in_a_lambda, waits_in_a_partial])
def test_whatever_is_called_is_rewritten(wait):
    verdict = spin_on(wait)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert verdict.num_states <= 8


def in_a_comprehension():
    return [load_acquire_i64(address, 0) for address in (TAIL,)]


def in_a_generator():
    def values():
        seen = load_acquire_i64(TAIL, 0)
        yield seen

    return tuple(values())


def in_a_with():
    with pytest.raises(ValueError):
        load_acquire_i64(TAIL, 0)


@pytest.mark.parametrize("kernel", [in_a_comprehension, in_a_generator, in_a_with])
def test_what_cannot_be_a_statement_is_refused(kernel):
    with pytest.raises(ModelError, match=r"has no model.*line \d+ of test_spin.py"):
        explore([(kernel,)], {TAIL: 0})


def test_without_source_only_statements_are_taken():
    names = {"load": load_acquire_i64}
    exec("def plain():\n x = load(128, 0)\n return x\ndef mixed():\n return 1 + load(128, 0)", names)
    assert explore([(names["plain"],)], {TAIL: 0}).result is Result.EXHAUSTED
    with pytest.raises(ModelError, match="whose source is not found"):
        explore([(names["mixed"],)], {TAIL: 0})


def test_an_endless_for_is_refused():
    def kernel():
        for number in itertools.count():
            store_relaxed_i64(TAIL, 0, number)

    with pytest.raises(ModelError, match="use `while`"):
        explore([(kernel,)], {TAIL: 0})


def test_a_wait_that_counts_is_named():
    def waits(tries):
        while 1 - load_acquire_i64(TAIL, 0):
            tries += 1
        return tries

    def counts_in_vain():
        return waits(0)

    verdict = spin_on(counts_in_vain)
    line = waits.__code__.co_firstlineno + 1
    assert verdict.result is Result.LIMIT
    assert f"lane 0 comes to a new state at every turn of waits, line {line} of" in verdict.growth
    assert "by `tries` of waits (" in verdict.growth and "lane 1" not in verdict.growth
    program = Program([(waits, 0)], {TAIL: 0})
    assert any(verdict.growth in line for line in lines_of("wait", program, verdict))


def test_a_search_that_is_only_large_names_no_wait():
    def adds(lane):
        done = 0
        while done < 3:
            store_relaxed_i64(CELLS, 0, load_relaxed_i64(CELLS, 0) * 3 + lane)
            done += 1

    verdict = explore([(adds, 1), (adds, 2), (adds, 5)], {CELLS: 1}, limit_states=20_000)
    assert (verdict.result, verdict.growth) == (Result.LIMIT, "")


def test_traces_keep_the_lines_of_the_source():
    def reader():
        return (
            load_relaxed_i64(HEAD, 0)
            + load_i64(TAIL, 0)
        )  # fmt: skip

    def writer():
        store_i64(TAIL, 0, 1)

    first = reader.__code__.co_firstlineno
    trace = explore([(reader,), (writer,)], {HEAD: 0, TAIL: 0}).trace
    lines = {step.where[0] for step in trace if step.lane == 0}
    assert lines == {f"reader, line {first + line} of test_spin.py" for line in (2, 3)}
