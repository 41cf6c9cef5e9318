"""A rank's cache of lines: slots of a tag word and a copy, in sets, for each line size.

Tags change by compare-and-swap, by the rank itself and by others:

    INVALID -> FILLING -> SHARED_COPY, EXCLUSIVE, MODIFIED      its own rank, in a transaction
    FILLING -> DROPPED                                          its agent, for another rank; what arrives is not kept
    SHARED_COPY -> INVALID                                     another rank, under the line's lock
    EXCLUSIVE, MODIFIED -> TAKEN -> SHARED_COPY, INVALID       the holder of the line's lock, which copies the line
    TAKEN -> MODIFIED                                          the same, where a range was under way for too long
    EXCLUSIVE, MODIFIED -> PINNED -> MODIFIED                  its own rank, for one access
    PINNED -> TAKEN -> INVALID                                 its own rank, which gives it back by a flit

A range pins a group of slots at once, by a word behind the tags. The writer pins the group and then reads the tags in
it; a taker marks a tag TAKEN and then reads the group's pin. So at least one of the two sees the other: the writer
leaves a TAKEN slot alone, and the taker waits until the group is free (`await_group`). Written slots stay MODIFIED.

A claim (FILLING) gives the slot a new version. So a reader that finds the same line and version after its load as
before it has read that line, and no other that moved in meanwhile. An INVALID tag keeps its line number: a later miss
on that line is known to be caused by another rank.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..intrinsics.scalar import (
    compare_swap_i64,
    fence_after_atomic,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_relaxed_i64,
    store_release_i64,
)
from ..intrinsics.system import count_trailing_zeros_u64, prefetch, prefetch_for_store, thread_stripe
from ..intrinsics.vector import vec_and_i64, vec_equal_i64, vec_lanes_i64, vec_load_relaxed_i64, vec_splat_i64
from ..page.control import peer_is_dead
from . import layout as words
from .directory import wait_turn
from .layout import (
    DROPPED,
    EXCLUSIVE,
    FILLING,
    GROUP_LOG2,
    INVALID,
    MODIFIED,
    PINNED,
    ROW_LOG2,
    SHARED_COPY,
    TAG_LINE_BITS,
    TAG_STATE_BITS,
    TAG_STATE_MASK,
    TAG_VERSION_SHIFT,
    TAKEN,
)

NO_SLOT = -1
LINE_MASK = (1 << TAG_LINE_BITS) - 1
LINE_IN_TAG = LINE_MASK << TAG_STATE_BITS


@inlined_function
def geometry_of(cache, line_log2):
    """Address of the words that say where the slots for this line size are."""
    return cache + (words.CACHE_GEOMETRIES + line_log2 * words.GEOMETRY_WORDS) * 8


@inlined_function
def first_slot(geometry, line):
    """The slot that `line` takes if it may choose; its set is the aligned GEOMETRY_NUM_WAYS of slots around it.

    Lines in a row have slots in a row, as far as a vector of tags goes: only the bits above are mixed.
    """
    return slot_among(line, load_i64(geometry, words.GEOMETRY_SLOT_MASK))


@inlined_function
def slot_among(line, slot_mask):
    """`first_slot` of a cache with `slot_mask` + 1 slots."""
    return (line ^ line >> 12 << ROW_LOG2) & slot_mask


@inlined_function
def tag_address(geometry, slot):
    """Address of the slot's tag."""
    return load_i64(geometry, words.GEOMETRY_TAGS) + slot * 8


@inlined_function
def own_tag(geometry, line):
    """Address of the tag where `line` most likely is."""
    return tag_address(geometry, first_slot(geometry, line))


@inlined_function
def copy_address(geometry, slot, line_log2):
    """Address of the slot's copy."""
    return load_i64(geometry, words.GEOMETRY_COPIES) + (slot << line_log2)


@inlined_function
def group_pin(geometry, slot):
    """Address of the pin of the slot's group: odd while a thread of the rank writes a range to copies in it, and each
    time another number."""
    return pin_among(
        load_i64(geometry, words.GEOMETRY_TAGS), load_i64(geometry, words.GEOMETRY_SLOT_MASK), slot
    )


@inlined_function
def pin_among(tags, slot_mask, slot):
    """`group_pin` of a cache whose tags begin at `tags`."""
    return tags + (slot_mask + 1 + (slot >> GROUP_LOG2)) * 8


@inlined_function
def line_of(tag):
    """The number of the line."""
    return (tag >> TAG_STATE_BITS) & LINE_MASK


@inlined_function
def state_of_line(tag, line):
    """The state that `tag` gives `line`; a number above all states where it is a tag of another line."""
    return (tag & (LINE_IN_TAG | TAG_STATE_MASK)) ^ line << TAG_STATE_BITS


@inlined_function
def is_of_line(tag, line):
    """True where `tag` is one of `line`, in whatever state."""
    return state_of_line(tag, line) <= TAG_STATE_MASK


@inlined_function
def is_readable(state):
    """True where a copy in `state` may be loaded from."""
    return SHARED_COPY <= state <= PINNED


@inlined_function
def is_free_to_store(state):
    """True where a copy in `state` is owned, and neither pinned nor taken."""
    return EXCLUSIVE <= state <= MODIFIED


@inlined_function
def claimed(tag, line, version_mask):
    """The tag of a slot that `line` claims from what `tag` says: FILLING, of the next version."""
    version = (tag >> TAG_VERSION_SHIFT) + 1 & version_mask
    return version << TAG_VERSION_SHIFT | line << TAG_STATE_BITS | FILLING


@inlined_function
def in_state(tag, state):
    """`tag` with another state."""
    return (tag & ~TAG_STATE_MASK) | state


@inlined_function
def tags_from(geometry, slot):
    """A vector of tags from `slot` on, which is a multiple of its lanes. Each was so at some moment: look at it again
    before anything follows from it."""
    return vec_load_relaxed_i64(load_i64(geometry, words.GEOMETRY_TAGS), slot)


@inlined_function
def lanes_where(tags, mask, wanted):
    """Bit k is 1 where lane k of `tags` AND `mask` is `wanted`."""
    return vec_equal_i64(vec_and_i64(tags, vec_splat_i64(mask)), vec_splat_i64(wanted))


@inlined_function
def set_of(geometry, line):
    """(slot of the vector where the set of `line` begins, slot where the set ends, bits of the set in a vector)."""
    num_ways, lanes = load_i64(geometry, words.GEOMETRY_NUM_WAYS), vec_lanes_i64()
    start = first_slot(geometry, line) & -num_ways
    aligned = start & -lanes
    return aligned, start + num_ways, ((1 << min(num_ways, lanes)) - 1) << (start - aligned)


@inlined_function
def find_tag(geometry, line, its_set, states, but):
    """(slot, tag) of `line` in one of `states` (bits) in its set (`set_of`), in another slot than `but`; NO_SLOT where
    there is none."""
    slots, end, in_set = its_set
    while slots < end:
        tags = tags_from(geometry, slots)
        rest = in_set & lanes_where(tags, LINE_IN_TAG, line << TAG_STATE_BITS)
        while rest != 0:
            slot = slots + count_trailing_zeros_u64(rest)
            tag = load_acquire_i64(tag_address(geometry, slot), 0)
            if is_of_line(tag, line) and (states >> (tag & TAG_STATE_MASK)) & 1 and slot != but:
                return slot, tag
            rest &= rest - 1
        slots += vec_lanes_i64()
    return NO_SLOT, 0


@inlined_function
def search(geometry, line):
    """(slot, tag) of a copy or claim of `line`, else NO_SLOT."""
    return find_tag(geometry, line, set_of(geometry, line), ~(1 << INVALID), NO_SLOT)


@inlined_function
def has_other_slot(geometry, line, its_set, slot):
    """True where another slot than `slot`, which was just claimed for `line`, has it or is claimed for it by a sibling.

    Of two siblings that claim at once at least one sees the other: claim, fence, look, on both sides.
    """
    if load_i64(geometry, words.GEOMETRY_NUM_WAYS) == 1:
        return False
    fence_after_atomic()
    other, _ = find_tag(geometry, line, its_set, ~(1 << INVALID), slot)
    return other != NO_SLOT


@device_function
def invalidate(cache, line_log2, line):
    """Make the rank of `cache` lose its shared copy of `line`, if it has one: 1 where it had.

    With the line's lock held. A claim is let alone: its rank waits for the lock, and will find that it is
    no sharer any more.
    """
    geometry = geometry_of(cache, line_log2)
    prefetch_for_store(own_tag(geometry, line))
    its_set = set_of(geometry, line)
    while True:
        slot, tag = find_tag(geometry, line, its_set, 1 << SHARED_COPY, NO_SLOT)
        if slot == NO_SLOT:
            return 0
        if compare_swap_i64(tag_address(geometry, slot), 0, tag, in_state(tag, INVALID)) == tag:
            return 1


@device_function
def take(control, cache, rank, line_log2, line):
    """Have the copy of an owned line for oneself, to copy it out: (code, slot), the slot TAKEN and intact.

    With the line's lock held. NOT_FOUND where `rank`, the owner, is dead and left none that is whole. AGAIN
    and INTERRUPTED where it is in use for longer than a slice. Then nothing has changed.
    """
    geometry = geometry_of(cache, line_log2)
    waited, was_dead = 0, 0
    prefetch_for_store(own_tag(geometry, line))
    prefetch(group_pin(geometry, first_slot(geometry, line)))
    while True:
        slot, tag = search(geometry, line)
        state = tag & TAG_STATE_MASK
        is_dead = 0
        if slot == NO_SLOT or not (is_free_to_store(state) or state == TAKEN):
            is_dead = peer_is_dead(control, rank)
            if is_dead and not was_dead:
                was_dead = 1
                continue  # what it has left is there to be seen only from here on
            if is_dead and (slot == NO_SLOT or state == SHARED_COPY):
                return status.NOT_FOUND, slot
        if slot != NO_SLOT:
            if state == TAKEN:  # by one who died with the line's lock
                return await_group(control, rank, geometry, slot), slot
            # A dead owner that was FILLING had all of it: where others map it the directory names it only then.
            is_free = is_free_to_store(state) or is_dead
            address = tag_address(geometry, slot)
            if is_free and compare_swap_i64(address, 0, tag, in_state(tag, TAKEN)) == tag:
                return await_group(control, rank, geometry, slot), slot
            if is_free:
                continue
        code, waited = wait_turn(control, waited)
        if code != status.OK:
            return code, slot


@inlined_function
def held_pin(geometry, slot):
    """The pin of the slot's group where a range of the slot's rank is under way there, else 0.

    Behind one's own change of the slot's tag: a range that comes later sees that, and leaves the slot alone.
    """
    fence_after_atomic()
    pin = load_acquire_i64(group_pin(geometry, slot), 0)
    return pin if pin & 1 else 0


@inlined_function
def await_group(control, rank, geometry, slot):
    """Wait for the range of `rank` that may write to a slot that was just made TAKEN, or PINNED to be: a status.

    From OK on nothing changes in the copy. AGAIN and INTERRUPTED after a slice: it is MODIFIED again.
    """
    pin = held_pin(geometry, slot)
    return status.OK if pin == 0 else await_range(control, rank, geometry, slot, pin)


@device_function
def await_range(control, rank, geometry, slot, pin):
    """`await_group` where the group is pinned by `pin`."""
    waited = 0
    while load_acquire_i64(group_pin(geometry, slot), 0) == pin and not peer_is_dead(control, rank):
        code, waited = wait_turn(control, waited)
        if code != status.OK:
            set_state(geometry, slot, MODIFIED)
            return code
    return status.OK


@inlined_function
def set_state(geometry, slot, state):
    """End what made the slot one's own: it is in `state` now, and all that was stored before is seen."""
    address = tag_address(geometry, slot)
    store_release_i64(address, 0, in_state(load_relaxed_i64(address, 0), state))


@inlined_function
def count_hits(cache, slot, number):
    """Count accesses to the rank's copies, of which one is in `slot`: in words of the thread's own, and in one of
    these by slot, so that the processor need not wait for the sum of the access before."""
    counters = load_i64(cache, words.CACHE_COUNTERS)
    if counters != 0:
        stripe = (thread_stripe() & (words.NUM_HIT_STRIPES - 1)) * words.STRIPE_WORDS
        word = words.HIT_STRIPES + stripe + (slot & (words.STRIPE_WORDS - 1))
        store_relaxed_i64(counters, word, load_relaxed_i64(counters, word) + number)


@inlined_function
def count(cache, counter, amount):
    """Raise one of the rank's counters. Between threads of a rank a count may be lost."""
    counters = load_i64(cache, words.CACHE_COUNTERS)
    if counters != 0:
        store_relaxed_i64(counters, counter, load_relaxed_i64(counters, counter) + amount)


assert PINNED < FILLING < DROPPED < TAKEN <= TAG_STATE_MASK
