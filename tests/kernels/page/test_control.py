"""Where an address lies: at the first and the last byte of each segment, and at the first byte past it."""

from __future__ import annotations

import numpy as np
import pytest

from umem.kernels.page import control

BASE, STRIDE_LOG2, NUM_RANKS = 1 << 44, 20, 33
SIZES = 4096, 8192  # bytes of a rank's two segments


@pytest.fixture
def words() -> np.ndarray:
    words = np.zeros(control.CONTROL_BYTES // 8, np.int64)
    words[control.CONTROL_LINEAR_BASE] = BASE
    words[control.CONTROL_LINEAR_END] = BASE + (2 * NUM_RANKS << STRIDE_LOG2)
    words[control.CONTROL_STRIDE_LOG2] = STRIDE_LOG2
    for kind, num_bytes in enumerate(SIZES):
        words[control.CONTROL_SEGMENT_BYTES + kind : control.CONTROL_SEGMENT_BYTES + 2 * NUM_RANKS : 2] = (
            num_bytes
        )
    return words


@pytest.mark.parametrize("home", [0, 1, 31, 32])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_segment_ends_with_its_last_byte(words, home, kind):
    start, last = BASE + (2 * home + kind << STRIDE_LOG2), SIZES[kind] - 1
    assert control.place_of(words.ctypes.data, start) == (home, kind, 0)
    assert control.place_of(words.ctypes.data, start + last) == (home, kind, last)
    assert control.place_of(words.ctypes.data, start + last + 1) == (control.NO_HOME, 0, 0)


def test_outside_the_window_is_nobodys(words):
    for address in (0, BASE - 1, int(words[control.CONTROL_LINEAR_END])):
        assert control.place_of(words.ctypes.data, address) == (control.NO_HOME, 0, 0)
