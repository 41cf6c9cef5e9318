"""Sizes read as written, and refused with the way out otherwise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umem.errors import ConfigError
from umem.units import align_up, format_size, parse_size, power_of_two_at_least


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("8", 8),
        ("1K", 1024),
        ("64M", 64 << 20),
        ("2G", 2 << 30),
        ("1.5k", 1536),
        ("4KiB", 4096),
        ("1gb", 1 << 30),
        (7, 7),
        (np.int32(7), 7),
    ],
)
def test_sizes_are_powers_of_1024(text, num_bytes):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "M", "1X", "-4", "1.0001K", "1 2", None, -1, True, 2.5, np.float64(2)])
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigError):
        parse_size(text)


@given(st.integers(0, 1023), st.sampled_from(["", "K", "M", "G", "T"]))
def test_whole_sizes_survive_a_round_trip(count, suffix):
    num_bytes = parse_size(f"{count}{suffix}")
    assert parse_size(format_size(num_bytes)) == num_bytes


@given(st.integers(0, 1 << 48), st.integers(0, 40))
def test_align_up_is_the_next_multiple(value, exponent):
    alignment = 1 << exponent
    aligned = align_up(value, alignment)
    assert aligned % alignment == 0 and 0 <= aligned - value < alignment


@given(st.integers(0, 1 << 48))
def test_power_of_two_is_the_smallest(value):
    power = power_of_two_at_least(value)
    assert power >= value and power.bit_count() == 1
    assert power == 1 or power // 2 < value
