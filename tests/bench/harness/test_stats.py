"""Statistics against distributions whose truth is known, and the judgement of bars."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.harness.stats import (
    Interval,
    Limit,
    Outcome,
    Stretch,
    judge,
    median_interval,
    next_look,
    ratio_interval,
    stretches,
    summarize,
)


def test_summary_of_known_samples():
    summary = summarize(np.arange(1.0, 101.0))
    assert summary.p50 == 50.5
    assert summary.p99 == pytest.approx(99.01)
    assert summary.cv == pytest.approx(np.arange(1, 101).std() / 50.5)
    assert summary.num_samples == 100


@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_interval_covers_the_true_median_about_95_times_in_100(draw):
    truth = {"normal": 0.0, "lognormal": 1.0, "exponential": np.log(2)}[draw]
    rng = np.random.default_rng(7)
    trials = 300
    covered = 0
    for _ in range(trials):
        interval = median_interval(getattr(rng, draw)(size=31), rng)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / trials <= 0.99


def test_interval_narrows_with_more_samples():
    rng = np.random.default_rng(3)
    few = median_interval(rng.normal(size=16), rng)
    many = median_interval(rng.normal(size=1024), rng)
    assert many.high - many.low < (few.high - few.low) / 3


def test_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=20)
    assert median_interval(values, np.random.default_rng(5)) == median_interval(
        values, np.random.default_rng(5)
    )


def test_ratio_divides_out_a_drift_that_both_sides_share():
    rng = np.random.default_rng(11)
    drift = np.exp(np.linspace(0, 2, 40))  # the host becomes 7 times slower on the way
    mine = 1.2 * drift * rng.normal(1, 0.01, 40)
    theirs = drift * rng.normal(1, 0.01, 40)
    interval = ratio_interval(mine, theirs, rng)
    assert interval.low > 1.19
    assert interval.high < 1.21


@pytest.mark.parametrize(
    ("interval", "limit", "outcome"),
    [
        ((0.9, 1.0, 1.1), Limit(1.15, at_most=True), Outcome.PASS),
        ((0.9, 1.0, 1.15), Limit(1.15, at_most=True), Outcome.PASS),
        ((1.1, 1.2, 1.3), Limit(1.15, at_most=True), Outcome.INCONCLUSIVE),
        ((1.16, 1.2, 1.3), Limit(1.15, at_most=True), Outcome.FAIL),
        ((0.96, 1.0, 1.1), Limit(0.95, at_most=False), Outcome.PASS),
        ((0.9, 1.0, 1.1), Limit(0.95, at_most=False), Outcome.INCONCLUSIVE),
        ((0.8, 0.9, 0.94), Limit(0.95, at_most=False), Outcome.FAIL),
    ],
)
def test_a_bar_passes_by_its_worse_end_and_fails_by_its_better_end(interval, limit, outcome):
    assert judge(Interval(*interval), limit) is outcome


def test_looks_double_from_the_smallest_useful_number():
    looks = [next_look(0)]
    while looks[-1] < 128:
        looks.append(next_look(looks[-1]))
    assert looks == [8, 16, 32, 64, 128]


def test_the_lead_changes_between_two_sizes():
    sizes = np.array([64.0, 256.0, 1024.0, 4096.0])
    memory = sizes * 1.0
    message = 500 + sizes * 0.1
    first, second = stretches(sizes, memory, message)
    assert (first.begin, first.is_first_ahead, second.is_first_ahead) == (64.0, True, False)
    assert second.begin == pytest.approx(500 / 0.9, rel=0.15)
    assert [stretch.is_first_ahead for stretch in stretches(sizes, message, memory)] == [False, True]


def test_one_stretch_where_one_side_is_always_ahead():
    sizes = np.array([64.0, 256.0])
    assert stretches(sizes, sizes, 2 * sizes) == [Stretch(64.0, True)]
    assert stretches(sizes, 2 * sizes, sizes) == [Stretch(64.0, False)]
    assert stretches(sizes, sizes, sizes) == [Stretch(64.0, True)]


def test_every_change_of_lead_begins_a_stretch():
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    found = stretches(sizes, np.array([2.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 2.0, 1.0]))
    assert [stretch.is_first_ahead for stretch in found] == [False, True, False]
    assert 1.0 == found[0].begin < found[1].begin < 2.0
    assert 4.0 < found[2].begin < 8.0
