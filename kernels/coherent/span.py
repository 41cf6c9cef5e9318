"""Coherent access to ranges: lines are found once and copied whole, so a range costs little more than a copy.

    coherent_read(cache, dst, address, num_bytes) -> (code, bytes done)
    coherent_write(cache, address, src, num_bytes) -> (code, bytes done)

`dst` and `src` are pointers to the caller's own memory. Codes are those of kernels/coherent/typed.py; where it is not
OK, settle and go on behind the bytes that are done. NOT_CACHED: from there on the memory is not cached, and its home
not mapped. A range is no atomic step: each aligned word in it is as one access, in no particular order. On CUDA
pointer and address must be multiples of 16.
"""

from __future__ import annotations

from .. import status
from ..build.compile import cpu_kernel, device_function, inlined_function
from ..data.shared_copy import copy_in, copy_out
from ..heap.layout import BLOCK_BYTES
from ..intrinsics.scalar import (
    compare_swap_i64,
    fence_acquire,
    fence_after_atomic,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_release_i64,
)
from ..intrinsics.system import count_trailing_zeros_u64
from ..intrinsics.vector import (
    vec_add_i64,
    vec_and_i64,
    vec_equal_i64,
    vec_indices_i64,
    vec_lanes_i64,
    vec_load_relaxed_i64,
    vec_shift_left_i64,
    vec_splat_i64,
    vec_xor_i64,
)
from ..page.control import BASE, contiguous_bytes, reaches_address
from . import layout as words
from .cache import (
    LINE_IN_TAG,
    NO_SLOT,
    copy_address,
    count_hits,
    geometry_of,
    in_state,
    is_free_to_store,
    is_readable,
    lanes_where,
    pin_among,
    search,
    slot_among,
    tag_address,
)
from .directory import unlock_line
from .flits import finish_flit, write_at_home
from .hits import is_readable_at_home
from .layout import (
    AT_REST,
    ATTRIBUTE_MASK,
    ATTRIBUTE_SHIFT,
    GET_OWNED,
    GET_SHARED,
    GROUP_SLOTS,
    INVALID,
    IS_HOME,
    LINE_LOG2_MASK,
    MODIFIED,
    NOT_HOME,
    PINNED,
    PRIVATE,
    TAG_STATE_BITS,
    TAG_STATE_MASK,
    THROUGH,
    WRITE_HOME,
)
from .misses import note_range
from .supply import fetch, look_again, make_home_ready, noted, room_for

COHERENCE_KERNELS = "coherence"
# After so many a vector of lines is not followed by another under the same pin: who takes one waits for that.
MOST_PINNED_BYTES = 4096


@inlined_function
def slots_of(cache, line_log2):
    """What does not change while one range is walked: (log2 of a line's bytes, address of the tags, of the copies,
    slots - 1). Loaded once: no compiler knows that copies do not store to the header."""
    geometry = geometry_of(cache, line_log2)
    tags, copies = load_i64(geometry, words.GEOMETRY_TAGS), load_i64(geometry, words.GEOMETRY_COPIES)
    return line_log2, tags, copies, load_i64(geometry, words.GEOMETRY_SLOT_MASK)


@inlined_function
def run_of(slots, address, num_bytes):
    """(slot, its lane, bytes, lanes) of the lines from `address` on whose tags are in one vector: what is to be had by
    one look. The bytes do not hang on the tags, so that the processor need not wait for these to go on."""
    line_log2, _, _, slot_mask = slots
    slot = slot_among((address - BASE) >> line_log2, slot_mask)
    lane = slot & (vec_lanes_i64() - 1)
    offset = address & ((1 << line_log2) - 1)
    size = min(num_bytes, (vec_lanes_i64() - lane << line_log2) - offset)
    num_lines = (offset + size + (1 << line_log2) - 1) >> line_log2
    return slot, lane, size, ((1 << num_lines) - 1) << lane


@inlined_function
def ones_from(bits, place):
    """How many bits in a row are 1, from `place` on."""
    return count_trailing_zeros_u64(~(bits >> place))


@device_function
def copy_some_out(dst, src, num_bytes):
    """`copy_out` of fewer lines than one look might give. By itself, so that only then the bytes hang on the tags."""
    copy_out(dst, src, num_bytes)


@device_function
def copy_some_in(dst, src, num_bytes):
    """`copy_in` of fewer lines than one look might give."""
    copy_in(dst, src, num_bytes)


@inlined_function
def tags_of_lines(slots, address, lane):
    """A vector of what the tags of lines in a row would be, with state and version 0; that of `address` in `lane`."""
    line_log2, _, _, _ = slots
    first = ((address - BASE) >> line_log2) - lane
    return vec_shift_left_i64(vec_add_i64(vec_splat_i64(first), vec_indices_i64()), TAG_STATE_BITS)


@inlined_function
def read_run(slots, dst, address, num_bytes):
    """Bytes read, from `address` on, of this rank's own copies of lines in a row: 0 where the first is not in its slot.

    They have slots in a row, so their copies lie one behind the other: one look at a vector of tags before the copy
    and one behind it do for all.
    """
    line_log2, all_tags, copies, _ = slots
    slot, lane, size, wanted = run_of(slots, address, num_bytes)
    tags = vec_load_relaxed_i64(all_tags, slot - lane)
    at_rest = vec_and_i64(tags, vec_splat_i64(LINE_IN_TAG | TAG_STATE_MASK - AT_REST))
    there = vec_equal_i64(at_rest, tags_of_lines(slots, address, lane)) & ~lanes_where(tags, AT_REST, INVALID)
    offset = address & ((1 << line_log2) - 1)
    src = copies + (slot << line_log2) + offset
    fence_acquire()
    if there & wanted == wanted:
        copy_out(dst, src, size)
    else:
        num_lines = ones_from(there, lane)
        if num_lines == 0:
            return 0
        size, wanted = (num_lines << line_log2) - offset, ((1 << num_lines) - 1) << lane
        copy_some_out(dst, src, size)
    changed = vec_xor_i64(tags, vec_load_relaxed_i64(all_tags, slot - lane))
    if lanes_where(changed, ~TAG_STATE_MASK, 0) & wanted != wanted:
        return 0
    return size


@inlined_function
def read_line(cache, note, dst, address, num_bytes):
    """Bytes read of this rank's own copy of one line, in whichever slot it is; 0 where it has none."""
    line_log2 = note & LINE_LOG2_MASK
    line = (address - BASE) >> line_log2
    geometry = geometry_of(cache, line_log2)
    slot, tag = search(geometry, line)
    if slot == NO_SLOT or not is_readable(tag & TAG_STATE_MASK):
        return 0
    size = within_line(note, address, num_bytes)
    copy_out(dst, copy_address(geometry, slot, line_log2) + (address & ((1 << line_log2) - 1)), size)
    return size if (load_acquire_i64(tag_address(geometry, slot), 0) ^ tag) >> TAG_STATE_BITS == 0 else 0


@inlined_function
def count_lines(cache, note, address, num_bytes):
    """Count the lines of a range as hits."""
    line_log2 = note & LINE_LOG2_MASK
    first, last = (address - BASE) >> line_log2, (address + num_bytes - 1 - BASE) >> line_log2
    count_hits(cache, first, last - first + 1)


@inlined_function
def within_line(note, address, num_bytes):
    """How many of the bytes from `address` on lie in its line."""
    line_bytes = 1 << (note & LINE_LOG2_MASK)
    return min(num_bytes, line_bytes - (address & (line_bytes - 1)))


@device_function
def read_cached(cache, note, dst, address, num_bytes):
    """(code, bytes done) of bytes in one block that is cached; 0 bytes: look again."""
    done = 0
    if note & NOT_HOME:
        slots = slots_of(cache, note & LINE_LOG2_MASK)
        while done < num_bytes:
            size = read_run(slots, dst + done, address + done, num_bytes - done)
            if size == 0:
                size = read_line(cache, note, dst + done, address + done, num_bytes - done)
            if size == 0:
                break
            done += size
    if done != 0:
        count_lines(cache, note, address, done)
        return status.OK, done
    return read_slowly(cache, note, dst, address, within_line(note, address, num_bytes))


@device_function
def read_slowly(cache, note, dst, address, num_bytes):
    """(code, bytes done) of bytes that lie in one line, by way of its home; 0 bytes: look again."""
    if note & IS_HOME:
        if is_readable_at_home(cache, note, address):
            copy_out(dst, address, num_bytes)
            return status.OK, num_bytes
        code, word, value = make_home_ready(cache, note, address, GET_SHARED)
        if code != status.OK or word == 0:
            return code, 0
        copy_out(dst, address, num_bytes)
        unlock_line(word, value)
        note_range(cache, address, num_bytes, note & LINE_LOG2_MASK, False)
        return status.OK, num_bytes
    is_private = (note >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK == PRIVATE
    request = GET_OWNED if is_private else GET_SHARED
    code, _ = fetch(cache, note, address, request, room_for(cache, note, address))
    note_range(cache, address, num_bytes, note & LINE_LOG2_MASK, is_private)
    return code, 0


@inlined_function
def next_piece(cache, address, num_bytes):
    """(code, note, bytes) of what is of one kind from `address` on: cached as noted, or raw where note is 0.

    NOT_CACHED where it is not cached and its home not mapped.
    """
    code, note = noted(cache, address)
    if code != status.OK:
        return code, note, 0
    in_block = min(num_bytes, BLOCK_BYTES - (address - BASE & (BLOCK_BYTES - 1)))
    if note != 0:
        return status.OK, note, in_block
    control = load_i64(cache, words.CACHE_CONTROL)
    if not reaches_address(control, address):
        return status.NOT_CACHED, note, 0
    return status.OK, note, min(in_block, contiguous_bytes(control, address))


@device_function
def coherent_read(cache, dst, address, num_bytes):
    """Copy `num_bytes` at `address` to the pointer `dst`: (code, bytes done)."""
    done = 0
    while done < num_bytes:
        code, note, size = next_piece(cache, address + done, num_bytes - done)
        if code == status.OK:
            if note == 0:
                copy_out(dst + done, address + done, size)
            else:
                code, size = read_cached(cache, note, dst + done, address + done, size)
        if code != status.OK:
            return code, done
        done += size
    return status.OK, done


@inlined_function
def write_run(slots, address, src, num_bytes):
    """Bytes written, from `address` on, to this rank's own copies of lines in a row: 0 where the first is not MODIFIED
    and in its slot, or where another thread writes to their group.

    The group is pinned, then tags are looked at: one pin for GROUP_SLOTS of them, one look for a vector.
    """
    line_log2, all_tags, copies, slot_mask = slots
    line = (address - BASE) >> line_log2
    pin = pin_among(all_tags, slot_mask, slot_among(line, slot_mask))
    seen = load_relaxed_i64(pin, 0)
    if seen & 1 or compare_swap_i64(pin, 0, seen, seen + 1) != seen:
        return 0
    fence_after_atomic()
    in_group = GROUP_SLOTS - (line & (GROUP_SLOTS - 1)) << line_log2
    most = max(MOST_PINNED_BYTES, vec_lanes_i64() << line_log2)
    end = min(num_bytes, min(in_group, most) - (address & ((1 << line_log2) - 1)))
    done = 0
    while done < end:
        slot, lane, size, wanted = run_of(slots, address + done, end - done)
        tags = vec_load_relaxed_i64(all_tags, slot - lane)
        modified = vec_add_i64(tags_of_lines(slots, address + done, lane), vec_splat_i64(MODIFIED))
        there = vec_equal_i64(vec_and_i64(tags, vec_splat_i64(LINE_IN_TAG | TAG_STATE_MASK)), modified)
        offset = address + done & ((1 << line_log2) - 1)
        dst = copies + (slot << line_log2) + offset
        fence_acquire()
        if there & wanted != wanted:
            num_lines = ones_from(there, lane)
            if num_lines != 0:
                size = (num_lines << line_log2) - offset
                copy_some_in(dst, src + done, size)
                done += size
            break
        copy_in(dst, src + done, size)
        done += size
    # Another number, so that a taker waits for this range alone; the old one where nothing was written, so that a
    # thread that tries in vain, time after time, changes nothing.
    store_release_i64(pin, 0, seen + 2 if done != 0 else seen)
    return done


@inlined_function
def write_line(cache, note, address, src, num_bytes):
    """Bytes written to this rank's own copy of one line, in whichever slot it is; 0 where it has none, or not owned."""
    line_log2 = note & LINE_LOG2_MASK
    geometry = geometry_of(cache, line_log2)
    slot, tag = search(geometry, (address - BASE) >> line_log2)
    if slot == NO_SLOT or not is_free_to_store(tag & TAG_STATE_MASK):
        return 0
    at = tag_address(geometry, slot)
    if compare_swap_i64(at, 0, tag, in_state(tag, PINNED)) != tag:
        return 0
    size = within_line(note, address, num_bytes)
    copy_in(copy_address(geometry, slot, line_log2) + (address & ((1 << line_log2) - 1)), src, size)
    store_release_i64(at, 0, in_state(tag, MODIFIED))
    return size


@device_function
def write_cached(cache, note, address, src, num_bytes):
    """(code, bytes done) of bytes in one block that is cached; 0 bytes: look again."""
    done = 0
    if note & NOT_HOME and (note >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK != THROUGH:
        slots = slots_of(cache, note & LINE_LOG2_MASK)
        while done < num_bytes:
            left = num_bytes - done
            size = write_run(slots, address + done, src + done, left)
            if size == 0:
                size = write_line(cache, note, address + done, src + done, left)
            if size == 0:
                break
            done += size
    if done != 0:
        count_lines(cache, note, address, done)
        return status.OK, done
    return write_slowly(cache, note, address, src, within_line(note, address, num_bytes))


@device_function
def write_slowly(cache, note, address, src, num_bytes):
    """(code, bytes done) of bytes that lie in one line, by way of its home; 0 bytes: look again."""
    if note & IS_HOME == 0 and (note >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK != THROUGH:
        code, _ = fetch(cache, note, address, GET_OWNED, room_for(cache, note, address))
        note_range(cache, address, num_bytes, note & LINE_LOG2_MASK, True)
        return code, 0
    code, word, value = make_home_ready(cache, note, address, WRITE_HOME)
    if code == status.NOT_MAPPED:
        code = write_at_home(cache, address, note & words.BLOCK_WORD_MASK, src, num_bytes)
        return look_again(code), num_bytes if code == status.OK else 0
    if code != status.OK or word == 0:
        return code, 0
    copy_in(address, src, num_bytes)
    unlock_line(word, value)
    note_range(cache, address, num_bytes, note & LINE_LOG2_MASK, True)
    return status.OK, num_bytes


@device_function
def coherent_write(cache, address, src, num_bytes):
    """Copy `num_bytes` at the pointer `src` to `address`: (code, bytes done)."""
    done = 0
    while done < num_bytes:
        code, note, size = next_piece(cache, address + done, num_bytes - done)
        if code == status.OK:
            if note == 0:
                copy_in(address + done, src + done, size)
            else:
                code, size = write_cached(cache, note, address + done, src + done, size)
        if code != status.OK:
            return code, done
        done += size
    return status.OK, done


@cpu_kernel("UniTuple(int64, 2)(int64, int64, int64, int64)", group=COHERENCE_KERNELS)
def read(cache, dst, address, num_bytes):
    """See `coherent_read`."""
    return coherent_read(cache, dst, address, num_bytes)


@cpu_kernel("UniTuple(int64, 2)(int64, int64, int64, int64)", group=COHERENCE_KERNELS)
def write(cache, address, src, num_bytes):
    """See `coherent_write`."""
    return coherent_write(cache, address, src, num_bytes)


@cpu_kernel("void(int64, int64, int64)", group=COHERENCE_KERNELS)
def finish(cache, code, value):
    """See `finish_flit`."""
    finish_flit(cache, code, value)
