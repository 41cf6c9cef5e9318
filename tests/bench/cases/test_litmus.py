"""The litmus lanes: their outcomes in plain Python, and that the harness would see a broken order."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.parts import litmus_lanes
from umem.bench.parts.litmus import LANES, Litmus

WORDS = litmus_lanes.STRIDE_WORDS


def memory():
    return [np.zeros(4 * WORDS, np.int64) for _ in range(2)], np.zeros(4, np.int64)


def run(test, order):
    """One instance, lanes one after the other in `order`; the observers' words."""
    (x, y), out = memory()
    seen = {}
    for lane in order:
        test(x.ctypes.data, y.ctypes.data, out.ctypes.data, lane, 0, 1)
        seen[lane] = int(out[0])
        out[0] = -1
    return seen


def test_corr_and_mp_see_all_or_nothing_when_lanes_do_not_overlap():
    for test in (litmus_lanes.corr, litmus_lanes.mp):
        assert run(test, (0, 1))[1] == 0b11
        assert run(test, (1, 0))[1] == 0b00


def test_sb_sees_one_store_when_lanes_do_not_overlap():
    assert run(litmus_lanes.sb, (0, 1)) == {0: 0, 1: 1}
    assert run(litmus_lanes.sb, (1, 0)) == {1: 0, 0: 1}


def test_instances_do_not_share_a_line():
    (x, y), out = memory()
    litmus_lanes.corr(x.ctypes.data, y.ctypes.data, out.ctypes.data, 0, 1, 3)
    assert np.nonzero(x)[0].tolist() == [WORDS, 2 * WORDS]


@pytest.mark.parametrize("test", LANES)
def test_a_lane_compiles_and_gives_up_when_nobody_comes(test):
    words, control, delays = np.zeros(64, np.int64), np.zeros(8192, np.int64), np.zeros(4, np.int64)
    (x, y), out = memory()
    meeting = (words.ctypes.data, words.ctypes.data + 256, 0, delays.ctypes.data)
    lane = (x.ctypes.data, y.ctypes.data, out.ctypes.data, 0, 1)
    assert LANES[test](control.ctypes.data, *meeting, *lane, 0) == 1  # AGAIN
    assert words[0] == 1


def test_outcomes_are_read_from_the_lanes_that_observe():
    class Out:
        def __init__(self, values):
            self.values = np.array(values)

        def numpy(self):
            return self.values.view(np.uint8)

    part = Litmus.__new__(Litmus)
    part.out = [Out([0, 1, 3]), Out([2, 0, 1])]
    assert part._outcomes("MP", writer=0) == [(1, 0), (0, 0), (0, 1)]
    assert part._outcomes("MP", writer=1) == [(0, 0), (0, 1), (1, 1)]
    part.out = [Out([0, 1]), Out([1, 1])]
    assert part._outcomes("SB", writer=0) == [(0, 1), (1, 1)]
    assert part._outcomes("SB", writer=1) == [(1, 0), (1, 1)]
