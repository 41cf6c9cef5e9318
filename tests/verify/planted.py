"""Functions of the directory's kernels, each with one point wrong; test_directory_bugs.py plants them."""

from __future__ import annotations

from umem.kernels.build.variants import variant
from umem.kernels.coherent import cache as line_cache
from umem.kernels.coherent import directory, eviction, hits, span
from umem.kernels.coherent import layout as words
from umem.kernels.intrinsics.scalar import (
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.status import NOT_FOUND, OK

# --- hits, in caches of one way


def load_without_second_look(cache, note, address, slot):
    """`load_hit` that trusts the tag before the load."""
    line_log2 = note & words.LINE_LOG2_MASK
    line = (address - hits.BASE) >> line_log2
    geometry = line_cache.geometry_of(cache, line_log2)
    tag = load_acquire_i64(line_cache.tag_address(geometry, 0), 0)
    if line_cache.is_readable(line_cache.state_of_line(tag, line)):
        return 1, load_acquire_i64(line_cache.copy_address(geometry, 0, line_log2), 0)
    return 0, 0


def add_without_pin(cache, note, address, slot, operation, first, second, waits):
    """`modify_hit` of fetch_add that trusts the tag before the store."""
    line_log2 = note & words.LINE_LOG2_MASK
    line = (address - hits.BASE) >> line_log2
    geometry = line_cache.geometry_of(cache, line_log2)
    tag = load_acquire_i64(line_cache.tag_address(geometry, 0), 0)
    if line_cache.state_of_line(tag, line) == words.MODIFIED:
        return OK, hits.add(line_cache.copy_address(geometry, 0, line_log2), operation, first, second)
    return NOT_FOUND, 0


def put_relaxed(address, operation, first, second):
    """`put` that a reader may see before the tag of the line."""
    store_relaxed_i64(address, 0, first)
    return 0


# --- ranges


def copy_out_relaxed(dst, src, num_bytes):
    """`copy_out` of a line of one word that lets later looks overtake it."""
    store_i64(dst, 0, load_relaxed_i64(src, 0))


def copy_in_relaxed(dst, src, num_bytes):
    """`copy_in` of a line of one word that a reader may see before what came earlier."""
    store_relaxed_i64(dst, 0, load_i64(src, 0))


def read_without_second_look(cache, note, dst, address, num_bytes):
    """`read_line` that trusts the tag before the copy."""
    line_log2 = note & words.LINE_LOG2_MASK
    geometry = line_cache.geometry_of(cache, line_log2)
    line = (address - hits.BASE) >> line_log2
    slot, tag = line_cache.search(geometry, line)
    if slot == line_cache.NO_SLOT or not line_cache.is_readable(tag & words.TAG_STATE_MASK):
        return 0
    span.copy_out(dst, line_cache.copy_address(geometry, slot, line_log2), 1 << line_log2)
    return 1 << line_log2


# --- the cache


def claimed_without_version(tag, line, version_mask):
    """`claimed` that leaves the version as it was."""
    return (
        tag >> words.TAG_VERSION_SHIFT << words.TAG_VERSION_SHIFT
        | line << words.TAG_STATE_BITS
        | words.FILLING
    )


def claimed_but_for_upgrades(tag, line, version_mask):
    """`claimed` that leaves a shared copy that is to be owned as it is."""
    is_upgrade = line_cache.state_of_line(tag, line) == words.SHARED_COPY
    return tag if is_upgrade else line_cache.claimed(tag, line, version_mask)


def copy_line_relaxed(dst, src, num_bytes):
    """`copy_line` of a line of one word that does not order its store."""
    store_relaxed_i64(dst, 0, load_acquire_i64(src, 0))


def set_state_relaxed(geometry, slot, state):
    """`set_state` that publishes nothing of what was stored before."""
    address = line_cache.tag_address(geometry, slot)
    store_relaxed_i64(address, 0, line_cache.in_state(load_relaxed_i64(address, 0), state))


def nothing(*arguments):
    """What stands for a step that is left out."""
    return 0


# --- transactions


def unlock_relaxed(word, value):
    """`unlock_line` that publishes nothing of the transaction."""
    store_relaxed_i64(word, 0, value)


def let_owner_go_first(control, word, value, row, next_value, rank, line_log2, owner_slot):
    """`let_owner_go` that ends the owner's copy before the directory names the next one."""
    state = words.SHARED_COPY if row & words.FORWARD_SHARED else words.INVALID
    owner_cache = directory.cache_of(control, directory.owner_of(value))
    line_cache.set_state(line_cache.geometry_of(owner_cache, line_log2), owner_slot, state)
    store_release_i64(word, 0, directory.locked(next_value, rank))


def publish_unlocked(geometry, slot, state, word, next_value, is_new_owner):
    """`publish` that unlocks before the requester's own tag says what it has, also a sharer's."""
    directory.unlock_line(word, next_value)
    line_cache.set_state(geometry, slot, state)


def publish_tag_first(geometry, slot, state, word, next_value, is_new_owner):
    """`publish` that names a new owner only when its copy is in use."""
    line_cache.set_state(geometry, slot, state)
    directory.unlock_line(word, next_value)


take_at_once = variant(line_cache.take, "take_at_once", TAKEN=words.INVALID)
give_back_first = variant(eviction.give_back, "give_back_first", store_release_i64=nothing)
leave_what_is_taken = variant(eviction.give_back, "leave_what_is_taken", is_of_line=nothing)

hold, take = eviction.hold, line_cache.take


def await_taker(control, geometry, slot):
    """Wait until the copy in a slot is TAKEN no more: for ever, where who took it died."""
    waited = 0
    while load_acquire_i64(line_cache.tag_address(geometry, slot), 0) & words.TAG_STATE_MASK == words.TAKEN:
        _, waited = directory.wait_turn(control, waited)


def hold_when_free(control, geometry, slot, line):
    """`hold` that awaits whoever has taken the copy."""
    await_taker(control, geometry, slot)
    return hold(control, geometry, slot, line)


def take_when_free(control, cache, rank, line_log2, line):
    """`take` that awaits whoever has taken the copy."""
    geometry = line_cache.geometry_of(cache, line_log2)
    slot, _ = line_cache.search(geometry, line)
    if slot != line_cache.NO_SLOT:
        await_taker(control, geometry, slot)
    return take(control, cache, rank, line_log2, line)


def hold_what_is_taken(control, geometry, slot, line):
    """`hold` that takes for settled what one who died had only begun to take."""
    tag = load_acquire_i64(line_cache.tag_address(geometry, slot), 0)
    if tag & words.TAG_STATE_MASK == words.TAKEN:
        return OK, words.MODIFIED
    return hold(control, geometry, slot, line)
