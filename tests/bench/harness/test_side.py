"""What a run is asked for, and the sides that run in workers."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.harness.side import Options, PartSide, Point
from umem.errors import ConfigError, UnknownName

SWEEP = Options(begin_bytes=8, end_bytes=512, factor=4)


def test_a_sweep_has_both_ends():
    assert SWEEP.sizes() == [8, 32, 128, 512]
    assert Options(begin_bytes=8, end_bytes=511, factor=4).sizes() == [8, 32, 128]
    assert Options(begin_bytes=8, end_bytes=8, factor=2).sizes() == [8]


@pytest.mark.parametrize(
    ("least", "most", "sizes"),
    [(32, 128, [32, 128]), (33, 127, [33]), (1, 4, [4]), (4096, 8192, [4096]), (9, 1 << 20, [32, 128, 512])],
)
def test_what_a_case_cannot_do_is_left_out_and_one_size_stays(least, most, sizes):
    assert SWEEP.sizes(least, most) == sizes


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": 0},
        {"factor": 1},
        {"iters": 0},
        {"warmup": -1},
        {"begin_bytes": 0},
        {"begin_bytes": 16, "end_bytes": 8},
        {"semantics": ("rma", "telepathy")},
        {"peers": ("nccl",)},
        {"world": "flat"},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises((ConfigError, UnknownName)):
        Options(**wrong)


def test_a_point_is_read_as_it_is_written():
    point = Point.parse("1M transport=tcp window=16")
    assert (point.num_bytes, point.label) == (1 << 20, "transport=tcp window=16")
    assert (point.setting("window", 1), point.setting("transport", "")) == (16, "tcp")
    assert point.setting("burners", 3) == 3


class FakePart:
    """Three workers, of which the last has the stop-watch, and two find errors."""

    def __init__(self):
        self.asked = []

    def call(self, method, *arguments):
        self.asked.append((method, *arguments))
        return [0, 2, 1] if method == "num_errors" else [None, None, np.ones(4)]


def test_a_side_takes_the_samples_of_one_worker_and_the_errors_of_all():
    part = FakePart()
    side = PartSide("fast", "rma", part, "put", arguments=(64,))
    assert side.block(4).tolist() == [1.0] * 4
    assert side.num_errors() == 3
    assert part.asked == [("put", 4, 64), ("num_errors",)]
    PartSide("get", "rma", part).block(1)
    assert part.asked[-1] == ("get", 1), "a side calls the method of its name"
