"""The work of the benchmark's mixture of experts."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.harness.moe import NUM_EXPERTS, NUM_TOPK, Tokens


def sums_of(tokens):
    return tokens.x * (tokens.choices + 1).sum(axis=1)[:, None]


def test_sums_that_are_right_are_told_from_those_that_are_not():
    tokens = Tokens(0, 100, 8, 0.0)
    assert tokens.num_wrong(sums_of(tokens)) == 0
    wrong = sums_of(tokens)
    wrong[3, 1] += 1
    wrong[7] = 0
    assert tokens.num_wrong(wrong) == 2


def test_what_the_last_tokens_got_is_wrong_for_the_next():
    tokens = Tokens(0, 100, 8, 0.0)
    last = sums_of(tokens)
    tokens.renew()
    assert tokens.num_wrong(last) == 100


@pytest.mark.parametrize(("imbalance", "least", "most"), [(0.0, 0.47, 0.53), (1.0, 0.6, 0.8)])
def test_imbalance_makes_the_first_experts_popular(imbalance, least, most):
    choices = Tokens(1, 4096, 2, imbalance).choices
    assert choices.shape == (4096, NUM_TOPK)
    assert (np.diff(np.sort(choices, axis=1), axis=1) > 0).all(), "a token chooses an expert once"
    assert least < (choices < NUM_EXPERTS // 2).mean() < most
