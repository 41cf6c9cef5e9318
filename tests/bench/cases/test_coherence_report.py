"""The report on false sharing: what it says of tables made up for it, and of ranks that share lines."""

from __future__ import annotations

import numpy as np
import pytest

import umem
from tests.kernels.kernel_memory import InterpretedMemory
from umem.kernels.coherent import layout as words
from umem.kernels.coherent.misses import note_loss, note_range, parts_of
from umem.kernels.intrinsics import machine
from umem.lines import report
from umem.lines.report import FALSE_SHARING, ONE_RANK, SHARING, LineUse

BASE = 0x2000_0000_0000
LINE, LOG2 = 128, 7
ROUNDS = 200


@pytest.mark.parametrize(
    ("offset", "num_bytes", "line_log2", "parts"),
    [
        (0, 8, 6, 0xFF),
        (56, 8, 6, 0xFF << 56),
        (8, 8, 7, 0xF0),
        (4088, 8, 12, 1 << 63),
        (0, 128, 7, report.ALL_PARTS),
        (2, 1, 7, 2),
        (1, 2, 7, 3),
    ],
)
def test_parts_are_the_64ths_that_an_access_touches(offset, num_bytes, line_log2, parts):
    assert (parts_of(offset, num_bytes, line_log2) ^ parts) & report.ALL_PARTS == 0


class Noted:
    """COUNTER words of a rank, written by the kernel itself in plain Python."""

    def __init__(self):
        self.table = np.zeros(words.COUNTER_WORDS, np.int64)
        self.header = np.zeros(words.CACHE_HEADER_BYTES // 8, np.int64)
        self.header[words.CACHE_COUNTERS] = self.table.ctypes.data

    def loss(self, address, is_store, line_log2=LOG2):
        with machine.use(InterpretedMemory()):
            note_loss(self.header.ctypes.data, address, line_log2, is_store)

    def range(self, address, num_bytes, is_store):
        with machine.use(InterpretedMemory()):
            note_range(self.header.ctypes.data, address, num_bytes, LOG2, is_store)

    def uses(self, rank=0):
        return report.uses(self.table, rank)


def test_a_line_is_named_with_what_it_is_used_for():
    noted = Noted()
    for address, is_store in ((BASE + LINE, False), (BASE + LINE + 12, True), (BASE + 5 * LINE, True)):
        noted.loss(address, is_store)
    assert noted.uses(rank=3) == [
        LineUse(3, BASE + LINE, LINE, misses=2, loaded=0xF, stored=0xF0),
        LineUse(3, BASE + 5 * LINE, LINE, misses=1, loaded=0, stored=0xF),
    ]


def test_the_last_part_of_a_line_and_other_line_sizes_are_told():
    noted = Noted()
    noted.loss(BASE + 4088, True, line_log2=12)
    assert noted.uses() == [LineUse(0, BASE, 4096, misses=1, loaded=0, stored=1 << 63)]


def test_a_frequent_line_stays_among_many_rare_ones_of_its_row():
    noted, frequent = Noted(), BASE + 7 * LINE
    for i in range(ROUNDS):
        noted.loss(frequent, True)
        noted.loss(frequent, False)
        rare = (7 ^ (i + 1)) | (i + 1) << words.NOTED_LOG2  # of the same row
        noted.loss(BASE + rare * LINE, False)
    assert [(use.address, use.misses) for use in noted.uses()] == [(frequent, ROUNDS)]


def test_a_row_changes_hands_when_its_line_is_not_missed_any_more():
    noted, other = Noted(), BASE + ((7 ^ 1) | 1 << words.NOTED_LOG2) * LINE
    noted.loss(BASE + 7 * LINE, True)
    noted.loss(BASE + 7 * LINE, True)
    noted.loss(other, False)
    assert [use.address for use in noted.uses()] == [BASE + 7 * LINE]
    noted.loss(other, False)
    assert noted.uses() == [LineUse(0, other, LINE, misses=1, loaded=0xF, stored=0)]


def test_ranges_add_what_they_touch_and_nothing_where_the_line_is_not_noted():
    noted = Noted()
    noted.range(BASE, LINE, True)
    assert noted.uses() == []
    noted.loss(BASE, True)
    noted.range(BASE, LINE, True)
    assert noted.uses() == [LineUse(0, BASE, LINE, misses=1, loaded=0, stored=report.ALL_PARTS)]


def use(rank, loaded=0, stored=0, address=BASE, misses=10):
    return LineUse(rank, address, LINE, misses, loaded, stored)


@pytest.mark.parametrize(
    ("uses", "verdict"),
    [
        ([use(0, stored=1)], ONE_RANK),
        ([use(0, stored=1), use(1, stored=2)], FALSE_SHARING),
        ([use(0, stored=1), use(1, loaded=2)], FALSE_SHARING),
        ([use(0, stored=1), use(1, loaded=1)], SHARING),
        ([use(0, stored=3), use(1, stored=2)], SHARING),
        ([use(0, loaded=1, stored=4), use(1, loaded=1, stored=8)], FALSE_SHARING),
        ([use(0, stored=1), use(1, stored=2), use(2, loaded=2)], SHARING),
    ],
)
def test_false_sharing_is_what_ranks_store_without_another_using_it(uses, verdict):
    (line,) = report.merge([one] for one in uses)
    assert line.verdict == verdict
    assert line.misses == 10 * len(uses)


def test_the_text_names_lines_ranks_and_bytes_worst_first():
    lines = report.merge(
        [[use(0, stored=0xF), use(0, stored=1, address=BASE + LINE, misses=99)], [use(1, loaded=0xF0)]]
    )
    first, second = report.text(lines).splitlines()
    assert first.startswith(f"{BASE + LINE:#x}")
    assert second.endswith("20 misses  false sharing: rank 0 stores 0-7, rank 1 loads 8-15")
    assert "no line" in report.text([])


def share(space, strides):
    """Ranks 0 and 1 store in turn, `stride` bytes apart: a line for each stride; their reports."""
    memory = space.shared("shared", (LINE * len(strides),), "uint8", home=2, cache="back")
    for number in range(ROUNDS):
        for line, stride in enumerate(strides):
            if number % 2 == space.rank:
                space.fetch_add(memory.address + line * LINE + space.rank * stride, 1)
        space.barrier()
    return memory.address, report.gather(space)


def test_ranks_that_store_to_one_line_are_told_whether_they_share_more():
    address, found = umem.launch(share, ranks=3, segment="8M", args=((0, 64),))
    lines = {line.address: line for line in found}
    assert lines[address].verdict == SHARING
    assert lines[address + LINE].verdict == FALSE_SHARING
    for line in lines.values():
        assert [use.rank for use in line.uses] == [0, 1]
        assert line.misses >= ROUNDS - 2 * 2, "each turn takes the line from the other rank"
