"""A range under way in one rank: who wants one of its lines waits, with a deadline, and not for the dead."""

from __future__ import annotations

import ctypes

import pytest

from tests.kernels.coherent.coherent_memory import CoherentMemory
from umem.errors import WaitTimeout
from umem.kernels.page import operations

WRITER, OTHER = 1, 2
LINE_BYTES = 64
BEFORE, WRITTEN = 5, 6


class Pinned:
    """A line that WRITER has MODIFIED, in a group that one of its threads has pinned and never lets go."""

    def __init__(self):
        self.memory = CoherentMemory(3)
        self.caches = [self.memory.open(rank, timeout_s=0.2) for rank in range(3)]
        self.address = self.caches[0].alloc(1 << 16, 0, "back", LINE_BYTES)
        self.caches[WRITER].change(self.address, operations.WRITE, BEFORE, 0, 8)
        log2 = LINE_BYTES.bit_length() - 1
        tags, _ = self.memory.lines.geometries[log2]
        pins = self.memory.plan.meta_address(WRITER) + tags + 8 * self.memory.lines.size.num_slots(log2)
        self.pins = (ctypes.c_int64 * self.memory.lines.size.num_groups(log2)).from_address(pins)
        for group in range(len(self.pins)):
            self.pins[group] = 1


@pytest.fixture
def pinned():
    made = Pinned()
    yield made
    made.memory.close()


def test_another_rank_gives_up_at_its_deadline_and_leaves_the_line_as_it_was(pinned):
    with pytest.raises(WaitTimeout):
        pinned.caches[OTHER].load(pinned.address, 8)
    pinned.pins[:] = [2] * len(pinned.pins)
    assert pinned.caches[WRITER].change(pinned.address, operations.FETCH_ADD, 1, 0, 8) == BEFORE
    assert pinned.caches[OTHER].load(pinned.address, 8) == BEFORE + 1


@pytest.mark.parametrize("operation", [operations.FETCH_ADD, operations.EXCHANGE, operations.COMPARE_SWAP])
def test_a_sibling_that_reads_and_stores_gives_up_at_its_deadline(pinned, operation):
    with pytest.raises(WaitTimeout):
        pinned.caches[WRITER].change(pinned.address, operation, BEFORE, WRITTEN, 8)
    assert pinned.caches[WRITER].load(pinned.address, 8) == BEFORE, "a load waits for nobody"


def test_what_a_dead_writer_has_written_is_there(pinned):
    pinned.memory.announce_death(WRITER)
    assert pinned.caches[OTHER].load(pinned.address, 8) == BEFORE
