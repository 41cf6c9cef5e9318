"""Values of every element go to a word and back: what carries words must not change them."""

from __future__ import annotations

import math

import pytest

from umem.kernels import access

INTEGERS = [name for name in access.NAMES if "float" not in name]
FLOATS = [name for name in access.ALL_NAMES if "float" in name]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_go_to_bits_and_back(name):
    element = access.ACCESSES[name]
    low, high = element.limits
    assert (low, high) == ((0 if name[0] == "u" else -(1 << 8 * element.num_bytes - 1)), high)
    assert high - low == (1 << 8 * element.num_bytes) - 1
    for value in {low, low + 1, -1 if low else 1, 0, 1, high - 1, high}:
        bits = element.to_bits(value)
        assert element.from_bits(bits) == value
        assert element.from_bits(bits & ((1 << 8 * element.num_bytes) - 1)) == value, "of unsigned words too"


@pytest.mark.parametrize("name", FLOATS)
def test_floats_go_to_bits_and_back(name):
    element = access.ready(name)
    for value in (0.0, -1.5, 2.0, math.inf, -math.inf):
        assert element.from_bits(element.to_bits(value)) == value
    assert math.isnan(element.from_bits(element.to_bits(math.nan)))
