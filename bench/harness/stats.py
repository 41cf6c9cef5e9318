"""From samples to statements: summaries, ratios of paired blocks, intervals, verdicts on bars.

The host drifts by tens of percent within minutes, so no time stands alone. Compared sides run in
turns (block A, block B, block A, ...); each block gives one number, each neighbouring pair one ratio,
and the interval is a percentile bootstrap of the median ratio: Efron and Tibshirani, An Introduction
to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
MIN_PAIRS = 8  # below this a percentile bootstrap of a median covers visibly less than its nominal 95 %


class Outcome(StrEnum):
    """The outcomes of a bar."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"


@dataclass(frozen=True)
class Summary:
    """Samples of one side at one point, in the samples' unit."""

    p50: float
    p99: float
    cv: float  # standard deviation / mean
    num_samples: int


@dataclass(frozen=True)
class Interval:
    """A median and the ends of its confidence interval."""

    low: float
    centre: float
    high: float


@dataclass(frozen=True)
class Limit:
    """The limit of a bar: its ratio must not be above (`at_most`) or below (not `at_most`) `value`."""

    value: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


def summarize(samples: Samples) -> Summary:
    """Median, 99th percentile and coefficient of variation of `samples`, which must not be empty."""
    mean = float(np.mean(samples))
    return Summary(
        p50=float(np.median(samples)),
        p99=float(np.percentile(samples, 99)),
        cv=float(np.std(samples) / mean) if mean else 0.0,
        num_samples=len(samples),
    )


def median_interval(values: Samples, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Interval:
    """Median of `values` with its percentile-bootstrap interval."""
    picks = rng.integers(0, len(values), size=(NUM_RESAMPLES, len(values)))
    medians = np.median(values[picks], axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    return Interval(float(low), float(np.median(values)), float(high))


def ratio_interval(numerator: Samples, denominator: Samples, rng: np.random.Generator) -> Interval:
    """Interval of the median of numerator[i] / denominator[i], where i counts pairs of blocks."""
    assert len(numerator) == len(denominator)
    return median_interval(numerator / denominator, rng)


def judge(interval: Interval, limit: Limit) -> Outcome:
    """PASS if the interval's worse end meets the limit, FAIL if its better end misses it."""
    if limit.at_most:
        worse, better = interval.high, interval.low
        meets, misses = worse <= limit.value, better > limit.value
    else:
        worse, better = interval.low, interval.high
        meets, misses = worse >= limit.value, better < limit.value
    if meets:
        return Outcome.PASS
    return Outcome.FAIL if misses else Outcome.INCONCLUSIVE


def next_look(num_pairs: int) -> int:
    """Pairs to have before the next judgement: the number doubles.

    Looking again until a bar is decided inflates the error of a single interval; doubling keeps the
    looks few (five between 8 and 128 pairs).
    """
    return max(MIN_PAIRS, 2 * num_pairs)


@dataclass(frozen=True)
class Stretch:
    """Sizes from `begin` on, up to the next stretch, at which the same side is ahead."""

    begin: float
    is_first_ahead: bool


def stretches(sizes: Samples, first_times: Samples, second_times: Samples) -> list[Stretch]:
    """The stretches of the ascending `sizes` in which one of two sides is faster; equal times count for the first.

    A stretch begins where a log-log line between the two sizes around it crosses; the first at sizes[0].
    """
    lead = np.log(second_times) - np.log(first_times)  # >= 0 where the first is ahead
    found = [Stretch(float(sizes[0]), bool(lead[0] >= 0))]
    for i in range(1, len(sizes)):
        if (lead[i] >= 0) != found[-1].is_first_ahead:
            fraction = lead[i - 1] / (lead[i - 1] - lead[i])
            begin = np.exp(np.log(sizes[i - 1]) + fraction * (np.log(sizes[i]) - np.log(sizes[i - 1])))
            found.append(Stretch(float(begin), not found[-1].is_first_ahead))
    return found
