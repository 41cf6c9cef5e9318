"""The kernels that measure memory compute what they claim, so that a figure is about the access it names."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.data.guarded import Guarded
from tests.kernels.ranks import run_threads
from umem.bench.parts import random_access
from umem.kernels import cpu_kernel
from umem.kernels.data import reference

cpu_sum_words_by_lane = cpu_kernel("int64(int64, int64, int64, int64)")(random_access.sum_words)


@pytest.mark.parametrize("spacing", [1, 8])
def test_a_chase_visits_every_place_once_before_it_returns(spacing):
    successors = reference.single_cycle(50, spacing, seed=3)
    visited = [random_access.cpu_chase(successors.ctypes.data, 0, steps) for steps in range(50)]
    assert sorted(visited) == list(range(0, 50 * spacing, spacing))
    assert random_access.cpu_chase(successors.ctypes.data, 0, 50) == 0
    assert visited[7] == reference.chase(successors, 0, 7)
    assert visited[7] == random_access.chase(successors.ctypes.data, 0, 7)


@pytest.mark.parametrize("num_words", [0, 1, 7, 8, 31, 32, 33, 1000])
@pytest.mark.parametrize("offset", [0, 8, 24])
def test_sum_words_equals_its_twin(num_words, offset):
    words = Guarded(8 * num_words, offset).fill(num_words)
    wanted = words.of(np.int64).sum()
    assert random_access.cpu_sum_words(words.address, num_words) == wanted
    parts = np.array([cpu_sum_words_by_lane(words.address, num_words, lane, 3) for lane in range(3)])
    assert parts.sum() == wanted


def test_sum_words_as_plain_python():
    words = np.arange(13)
    parts = [random_access.sum_words(words.ctypes.data, 13, lane, 2) for lane in range(2)]
    assert sum(parts) == words.sum()


@pytest.mark.parametrize(
    "count", [random_access.cpu_count_by_fetch_add, random_access.cpu_count_by_compare_swap]
)
def test_counting_together_loses_nothing(count):
    word = np.zeros(1, np.int64)
    count.load()
    last = run_threads(2, lambda _: count(word.ctypes.data, 20_000))
    assert word[0] == 40_000 == max(last)
