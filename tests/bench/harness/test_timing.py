"""Sides run in turns, close in every case, and stop when their time is up."""

from __future__ import annotations

import pytest

from tests.bench.examples import FakeSide
from umem.bench.harness.side import Point
from umem.bench.harness.timing import Depth, close_sides, measure, open_sides
from umem.errors import FabricMissing, Waived

POINT = Point(8)


def test_sides_run_in_turns_after_the_warm_up():
    log = []
    sides = [FakeSide("a", [1], log), FakeSide("b", [2], log), FakeSide("c", [3], log)]
    measured, _ = measure(sides, POINT, Depth(num_rounds=2, samples_per_block=4))
    assert log == list("abc") * 3
    assert [len(measured.blocks[name]) for name in "abc"] == [2, 2, 2]
    assert measured.blocks["b"][0].tolist() == [2.0] * 4


def test_no_warm_up_where_none_is_asked_for():
    log = []
    measure([FakeSide("a", [1], log)], POINT, Depth(3, 1, warmup_samples=0))
    assert log == ["a"] * 3


def test_time_limit_ends_the_sampling_but_not_below_the_least():
    seconds = iter(range(100))
    side = FakeSide("a", [1])
    measured, _ = measure([side], POINT, Depth(50, 1, 0, time_limit_s=5.0), clock=lambda: next(seconds))
    assert 3 <= len(measured.blocks["a"]) < 50
    late = iter([0, *[1000] * 100])
    measured, _ = measure(
        [side], POINT, Depth(50, 1, 0, time_limit_s=5.0, min_rounds=4), clock=lambda: next(late)
    )
    assert len(measured.blocks["a"]) == 4


def test_errors_of_every_block_are_counted():
    measured, _ = measure([FakeSide("a", [1], errors=2)], POINT, Depth(3, 1))
    assert measured.errors == {"a": 6}


def test_a_side_that_cannot_run_leaves_the_others():
    sides = [FakeSide("a", [1]), FakeSide("b", [1], failure=Waived("no such thing here"))]
    opened, missing = open_sides(sides)
    assert [side.name for side in opened] == ["a"]
    assert [(lack.side.name, str(lack.error)) for lack in missing] == [("b", "no such thing here")]
    close_sides(opened)
    assert not sides[0].is_open


class LateSide(FakeSide):
    """Finds out in its first block what it lacks."""

    def block(self, num_samples):
        raise FabricMissing("no libucp")


def test_a_side_that_finds_a_lack_in_its_warm_up_leaves_the_others():
    sides = [FakeSide("a", [1]), LateSide("b", [1])]
    measured, (lack,) = measure(sides, POINT, Depth(2, 1))
    assert list(measured.blocks) == ["a"]
    assert (lack.side.name, lack.is_waived) == ("b", True)


def test_a_fault_while_opening_closes_what_was_open():
    sides = [FakeSide("a", [1]), FakeSide("b", [1], failure=KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        open_sides(sides)
    assert not sides[0].is_open
