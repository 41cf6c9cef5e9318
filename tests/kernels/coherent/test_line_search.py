"""Looking for a line in its set, by vectors of tags and, in plain Python, tag by tag, against a list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umem.kernels import cpu_kernel, status
from umem.kernels.coherent import cache as line_cache
from umem.kernels.coherent import eviction
from umem.kernels.coherent import layout as words
from umem.kernels.intrinsics.scalar import load_acquire_i64

VERSIONS = 1 << words.TAG_VERSION_BITS
WAYS = (1, 2, 4, 8, 16)
LANES_MOST = 8
LIVE = ~(1 << words.INVALID)
CLOCK_WORD = 0xC10C


def found_by(geometry, line, states, but):
    """`find_tag`."""
    return line_cache.find_tag(geometry, line, line_cache.set_of(geometry, line), states, but)


def room_by(cache, geometry, line):
    """`find_room`."""
    slot = eviction.find_room(cache, geometry, line, line_cache.set_of(geometry, line))
    return slot, load_acquire_i64(line_cache.tag_address(geometry, slot), 0)


PAIR = "UniTuple(int64, 2)"
FIND = (cpu_kernel(f"{PAIR}(int64, int64, int64, int64)")(found_by), found_by)
ROOM = (cpu_kernel(f"{PAIR}(int64, int64, int64)")(room_by), room_by)


class Cache:
    """A cache of `num_slots` tags and its header, in memory of the test."""

    def __init__(self, num_slots: int, num_ways: int):
        self.room = np.zeros(num_slots + 2 * LANES_MOST, np.int64)
        first = -self.room.ctypes.data // 8 % LANES_MOST
        self.tags = self.room[first : first + num_slots]
        self.geometry = np.zeros(words.GEOMETRY_WORDS, np.int64)
        self.geometry[words.GEOMETRY_TAGS] = self.tags.ctypes.data
        self.geometry[words.GEOMETRY_SLOT_MASK] = num_slots - 1
        self.geometry[words.GEOMETRY_NUM_WAYS] = num_ways
        self.header = np.zeros(words.CACHE_HEADER_BYTES // 8, np.int64)
        self.header[words.CACHE_CLOCK] = CLOCK_WORD
        self.num_ways = num_ways

    def first_slot(self, line: int) -> int:
        """The slot that the line would have."""
        return int(line_cache.first_slot(self.geometry.ctypes.data, line))

    def slots(self, line: int) -> list[int]:
        """Its set."""
        start = self.first_slot(line) // self.num_ways * self.num_ways
        return list(range(start, start + self.num_ways))

    def fill(self, slot: int, line: int, state: int, version: int) -> None:
        """Give a slot a tag."""
        tag = version << words.TAG_VERSION_SHIFT | line << words.TAG_STATE_BITS | state
        self.tags[slot] = np.uint64(tag & (1 << 64) - 1).astype(np.int64)

    def holds(self, slot: int, line: int) -> bool:
        """Whether the slot's tag is one of the line."""
        return int(self.tags[slot]) >> words.TAG_STATE_BITS & (1 << words.TAG_LINE_BITS) - 1 == line

    def state(self, slot: int) -> int:
        """State of the slot."""
        return int(self.tags[slot]) & words.TAG_STATE_MASK


@st.composite
def caches(draw):
    """A cache with tags of a few lines, and a line: lines that share low bits, and the highest ones there are."""
    num_ways = draw(st.sampled_from(WAYS))
    cache = Cache(max(draw(st.sampled_from((1, 2, 8, 32))), num_ways), num_ways)
    top = (1 << words.TAG_LINE_BITS) - 1
    lines = st.sampled_from((1, 2, 3, 9, 17, 33, 1 << 12 | 1, 1 << 39, top - 1, top))
    line = draw(lines)
    for slot in draw(st.lists(st.sampled_from(range(len(cache.tags))), max_size=24)):
        home = draw(lines)
        where = draw(st.sampled_from([slot, *cache.slots(line)]))
        cache.fill(
            where, home, draw(st.integers(0, words.TAKEN)), draw(st.sampled_from((0, 3, VERSIONS - 1)))
        )
    return cache, line


@given(caches(), st.sampled_from((LIVE, 1 << words.SHARED_COPY)), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_line_is_found_in_its_set_and_nowhere_else(made, states, is_one_left_out):
    cache, line = made
    there = [
        slot for slot in cache.slots(line) if cache.holds(slot, line) and states >> cache.state(slot) & 1
    ]
    but = there.pop(0) if there and is_one_left_out else line_cache.NO_SLOT
    wanted = (there[0], int(cache.tags[there[0]])) if there else (line_cache.NO_SLOT, 0)
    for find in FIND:
        assert tuple(find(cache.geometry.ctypes.data, line, states, but)) == wanted


@given(caches())
@settings(max_examples=400, deadline=None)
def test_room_is_found_in_the_order_of_what_it_costs(made):
    cache, line = made
    slots, first = cache.slots(line), cache.first_slot(line)
    theirs = [slot for slot in slots if cache.holds(slot, line)]
    live = [slot for slot in theirs if cache.state(slot) != words.INVALID]
    free = [slot for slot in slots if cache.state(slot) == words.INVALID]
    for find in ROOM:
        slot, tag = find(cache.header.ctypes.data, cache.geometry.ctypes.data, line)
        assert tag == cache.tags[slot]
        has_drawn = cache.header[words.CACHE_CLOCK] != CLOCK_WORD
        cache.header[words.CACHE_CLOCK] = CLOCK_WORD
        if live:
            assert slot == live[0]
        elif theirs:
            assert slot in theirs
        elif free:
            assert slot == (first if first in free else free[0])
        else:
            assert slot in slots
        assert has_drawn == (not theirs and not free and cache.num_ways > 1)


@pytest.mark.parametrize("num_ways", WAYS)
def test_every_slot_of_a_full_set_is_a_victim_in_turn(num_ways):
    cache = Cache(32, num_ways)
    for slot in range(32):
        cache.fill(slot, 100 + slot, words.SHARED_COPY, 0)
    victims = {ROOM[0](cache.header.ctypes.data, cache.geometry.ctypes.data, 5)[0] for _ in range(400)}
    assert victims == set(cache.slots(5))


def test_lines_in_a_row_have_slots_in_a_row():
    cache = Cache(1 << 10, 8)
    for line in range(0, 1 << 16, 1 << line_cache.ROW_LOG2):
        first = cache.first_slot(line)
        assert [cache.first_slot(line + i) for i in range(8)] == list(range(first, first + 8))


@pytest.mark.parametrize("left", [words.MODIFIED, words.PINNED, words.SHARED_COPY])
def test_what_a_dead_owner_left_is_looked_at_behind_its_death(monkeypatch, left):
    cache, line, line_log2 = Cache(8, 2), 5, words.MIN_LINE_LOG2
    slot = cache.first_slot(line)
    at = words.CACHE_GEOMETRIES + line_log2 * words.GEOMETRY_WORDS
    cache.header[at : at + words.GEOMETRY_WORDS] = cache.geometry
    cache.fill(slot, line, words.SHARED_COPY, 0)

    def dies(control, rank):
        """It had no more than a shared copy when it was looked at, went on, and died."""
        cache.fill(slot, line, left, 0)
        return 1

    monkeypatch.setattr(line_cache, "peer_is_dead", dies)
    code, found = line_cache.take(0, cache.header.ctypes.data, 1, line_log2, line)
    is_whole = left != words.SHARED_COPY
    assert (code, found) == (status.OK if is_whole else status.NOT_FOUND, slot)
    assert cache.state(slot) == (words.TAKEN if is_whole else words.SHARED_COPY)
