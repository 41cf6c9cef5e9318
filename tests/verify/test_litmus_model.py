"""The litmus tests that are shipped, under the memory models: none fails, and no order in them is there for nothing.

A planted bug is a shipped test in which one acquire, release or fence is left out. Its control is the test as it
is, exhausted and clean under the same model.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from umem.verify import Result, replay
from umem.verify.litmus import parse
from umem.verify.litmus.model import check, program_of
from umem.verify.litmus.shipped import shipped

TESTS = {litmus.name: litmus for litmus in shipped()}
WEAKER = {"load_acquire": "load", "store_release": "store", "fence": None}
# A model without promises shows no load buffering: the orders of LB forbid nothing more there.
NOT_NEEDED = ("LB", "SB-free", "2+2W-free")
# Named for what coherence alone promises: they have no order that could be left out.
FAMOUS = {"CoRR", "CoWW", "CoRW", "CoWR", "MP", "LB", "WRC", "ISA2", "S", "SB", "IRIW", "2+2W", "R"}


def without_one_order(litmus):
    """Every test that lacks one acquire, release or fence of `litmus`, by what it lacks."""
    for lane, steps in enumerate(litmus.lanes):
        for index, step in enumerate(steps):
            if step.operation not in WEAKER:
                continue
            weaker = WEAKER[step.operation]
            left = () if weaker is None else (replace(step, operation=weaker),)
            lanes = list(litmus.lanes)
            lanes[lane] = (*steps[:index], *left, *steps[index + 1 :])
            yield f"{step.operation} of rank {lane}", replace(litmus, lanes=tuple(lanes))


PLANTED = [
    pytest.param(name, mutant, id=f"{name}, no {what}")
    for name, litmus in TESTS.items()
    if name not in NOT_NEEDED
    for what, mutant in without_one_order(litmus)
]


def test_the_famous_ones_are_shipped_and_many_orders_are_planted():
    assert TESTS.keys() >= FAMOUS
    assert len(PLANTED) >= 20


@pytest.mark.parametrize("name", TESTS)
def test_no_model_shows_what_is_forbidden_and_weak_memory_shows_what_is_allowed(name):
    verdicts = list(check(TESTS[name]))
    assert [one.verdict.memory for one in verdicts] == ["sequential", "weak"]
    for one in verdicts:
        assert one.passes, (one.verdict.bug, one.unseen)
        assert len(one.ends) > 1


@pytest.mark.parametrize(("name", "mutant"), PLANTED)
def test_an_order_left_out_is_found(name, mutant):
    sequential, weak = check(mutant)
    assert sequential.passes, "sequential memory orders all by itself"
    assert weak.verdict.result is Result.BUG
    assert weak.verdict.bug.startswith("forbidden: ")
    program = program_of(mutant)
    lanes, memory, final = program.lanes, program.memory, program.final
    assert replay(lanes, memory, weak.verdict.schedule, final, "weak") == weak.verdict.bug
    assert all(control.verdict.result is Result.EXHAUSTED for control in check(TESTS[name]))


def test_what_weak_memory_never_shows_is_not_called_allowed():
    litmus = parse("test never\nstart x = 0\nrank 0: store x 1\nrank 1: a = load x\nallowed a = 2")
    sequential, weak = check(litmus)
    assert sequential.passes
    assert not weak.passes
    assert weak.unseen == litmus.allowed


def test_what_sequential_memory_shows_already_is_found_there():
    litmus = parse("test lost\nstart x = 0\nrank 0: store x 1\nrank 1: a = load x\nforbidden a = 0")
    (found,) = check(litmus)
    assert (found.verdict.memory, found.verdict.bug) == ("sequential", "forbidden: a = 0")
