"""The directory word and the tag word: what is put in is read out, in every format and for up to 512 ranks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from umem.kernels.coherent import cache, directory
from umem.kernels.coherent import layout as words
from umem.kernels.page.control import MAX_RANKS

WORD = (1 << 64) - 1


@st.composite
def worlds(draw):
    """(ranks of a world, those that come to share a line, in their order)"""
    num_ranks = draw(st.sampled_from((1, 2, 47, 48, 49, 96, 97, 300, MAX_RANKS)))
    return num_ranks, draw(st.lists(st.integers(0, num_ranks - 1), max_size=12))


def shared_by(num_ranks, sharers):
    value = directory.shared_by_nobody(num_ranks)
    for rank in sharers:
        value = directory.with_sharer(value, rank, num_ranks)
    return value


def targets(value, num_ranks):
    """The ranks that an invalidation goes to."""
    found, rank = [], directory.next_sharer(value, 0, num_ranks)
    while rank != directory.NO_RANK:
        found.append(rank)
        rank = directory.next_sharer(value, rank + 1, num_ranks)
    return found


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_no_sharer_is_forgotten(world):
    num_ranks, sharers = world
    value = shared_by(num_ranks, sharers)
    found = targets(value, num_ranks)
    assert set(sharers) <= set(found) and found == sorted(set(found))
    assert all(directory.may_share(value, rank, num_ranks) for rank in sharers)
    assert value & WORD == value, "a word has 64 bits"
    assert directory.line_state(value) == words.LINE_SHARED
    named = {rank for rank in range(num_ranks) if directory.is_named(value, rank, num_ranks)}
    assert named <= set(sharers), "who is named is a sharer: its copy is trusted"
    if num_ranks <= words.MAX_RANKS_WITH_BITS or len(set(sharers)) <= words.NUM_POINTERS:
        assert found == sorted(set(sharers)), "exact while there is room"
        assert named == set(sharers)
    else:
        size = directory.group_size(num_ranks)
        assert {rank // size for rank in found} == {rank // size for rank in sharers}


@given(st.integers(0, MAX_RANKS - 1), st.integers(0, MAX_RANKS - 1))
def test_the_owner_and_the_holder_of_the_lock_stand_apart(owner, holder):
    value = directory.owned_by(owner)
    locked = directory.locked(value, holder)
    assert directory.owner_of(value) == directory.owner_of(locked) == owner
    assert (locked >> words.HOLDER_SHIFT) & words.RANK_MASK == holder
    assert directory.unlocked(locked) == value != locked


@given(worlds(), st.integers(0, MAX_RANKS - 1))
def test_a_lock_hides_nobody(world, holder):
    num_ranks, sharers = world
    value = shared_by(num_ranks, sharers)
    assert directory.unlocked(directory.locked(value, holder)) == value
    assert targets(directory.locked(value, holder), num_ranks) == targets(value, num_ranks)


def as_int64(word):
    """The word as a kernel on int64 has it: a large version makes it negative."""
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


@given(
    st.sampled_from((1, 3, words.TAG_VERSION_BITS)),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, words.TAKEN),
    st.integers(0, (1 << words.TAG_VERSION_BITS) - 1),
)
def test_a_claim_is_a_new_version_of_the_new_line(version_bits, line, before, state, version):
    version_mask = (1 << version_bits) - 1
    version &= version_mask
    tag = as_int64(version << words.TAG_VERSION_SHIFT | before << words.TAG_STATE_BITS | state)
    assert cache.state_of_line(tag, before) == state
    claimed = as_int64(cache.claimed(tag, line, version_mask))
    assert cache.state_of_line(claimed, line) == words.FILLING
    assert cache.line_of(claimed) == line
    assert (claimed >> words.TAG_VERSION_SHIFT) & version_mask == (version + 1) & version_mask
    assert cache.is_of_line(claimed, before) == (before == line)
    assert cache.is_of_line(tag, line) == (before == line)
    assert cache.in_state(claimed, words.INVALID) >> words.TAG_STATE_BITS == claimed >> words.TAG_STATE_BITS


def test_versions_come_again_after_all_of_them():
    tags = [0]
    for _ in range(9):
        tags.append(cache.claimed(tags[-1], 5, 7))
    assert len(set(tags[1:9])) == 8 and tags[9] == tags[1]
