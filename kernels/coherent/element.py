"""Coherent access to one element: the templates of kernels/coherent/typed.py, written as for int64.

A hit is the load itself and the tag before and behind it: behind it, because a thread of the same rank may have
given the slot to another line meanwhile. A store pins the line first (one compare-and-swap): a store that only
checks before, or only behind, can land in a slot that others have just taken.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..intrinsics import scalar
from ..intrinsics.scalar import (
    compare_swap_i64,
    compare_swap_u32,
    load_acquire_i64,
    load_i64,
    load_relaxed_u32,
    store_i64,
    store_release_i64,
)
from ..page import gate as way
from ..page import operations
from ..page.control import BASE, PEER_MAPPED, RANK, home_rank
from . import layout as words
from .cache import (
    NO_SLOT,
    await_group,
    copy_address,
    count_hits,
    first_slot,
    geometry_of,
    held_pin,
    in_state,
    is_free_to_store,
    is_readable,
    set_state,
    state_of_line,
    tag_address,
)
from .directory import unlock_line
from .flits import modify_at_home, read_at_home
from .layout import (
    ATTRIBUTE_MASK,
    ATTRIBUTE_SHIFT,
    GET_OWNED,
    GET_SHARED,
    IS_HOME,
    LINE_LOG2_MASK,
    MODIFIED,
    NOT_HOME,
    PINNED,
    PRIVATE,
    STATE_BITS,
    THROUGH,
    WRITE_HOME,
)
from .supply import fetch, is_readable_at_home, make_home_ready, note_of, noted, room_for

# --- templates: the names that are bound for each element stand here for int64

NUM_BYTES, ZERO, OPERATION, READS_FIRST = 8, 0, operations.WRITE, 1
load_value, store_value = scalar.load_i64, scalar.store_i64
load_acquire_value, store_release_value = scalar.load_acquire_i64, scalar.store_release_i64


@device_function
def put(address, operation, first, second):
    """`modify` for store; what stood there is not told."""
    store_release_value(address, 0, first)
    return ZERO


@device_function
def modify(address, operation, first, second):
    """Change the element at `address`, to which no other thread stores meanwhile; returns what stood there."""
    old = load_value(address, 0)
    store_release_value(address, 0, first)
    return old


@device_function
def add(address, operation, first, second):
    """`modify` for fetch_add."""
    old = load_value(address, 0)
    store_release_value(address, 0, old + first)
    return old


@device_function
def swap_if_equal(address, operation, first, second):
    """`modify` for compare_swap."""
    old = load_value(address, 0)
    if old == first:
        store_release_value(address, 0, second)
    return old


@device_function
def modify_any(address, operation, first, second):
    """`modify` for whatever operation the caller names."""
    old = load_value(address, 0)
    if operation == operations.FETCH_ADD:
        store_release_value(address, 0, old + first)
    elif operation != operations.COMPARE_SWAP:
        store_release_value(address, 0, first)
    elif old == first:
        store_release_value(address, 0, second)
    return old


modify_raw = modify  # bound to the same in one atomic step


@inlined_function
def own_slot(cache, note, address):
    """The slot where the line of `address` is looked for first: most are there."""
    line_log2 = note & LINE_LOG2_MASK
    return first_slot(geometry_of(cache, line_log2), (address - BASE) >> line_log2)


@inlined_function
def load_hit(cache, note, address, slot):
    """(1, value) from this rank's own copy in `slot`; (0, 0) where the line is not there."""
    line_log2 = note & LINE_LOG2_MASK
    geometry = geometry_of(cache, line_log2)
    at, copy = tag_address(geometry, slot), copy_address(geometry, slot, line_log2)
    tag = load_acquire_i64(at, 0)
    if is_readable(state_of_line(tag, (address - BASE) >> line_log2)):
        offset = address & ((1 << line_log2) - 1)
        value = load_acquire_value(copy + offset, 0)
        if (load_acquire_i64(at, 0) ^ tag) >> STATE_BITS == 0:
            count_hits(cache, slot, 1)
            return 1, value
    return 0, ZERO


@device_function
def load_uncached(cache, address):
    """(code, value) of the element at `address`, in memory that is not cached."""
    control = load_i64(cache, words.CONTROL)
    if load_i64(control, PEER_MAPPED + home_rank(control, address)) != 0:
        return status.OK, load_acquire_value(address, 0)
    code, bits = read_at_home(cache, address, NUM_BYTES)
    if code != status.OK:
        return code, ZERO
    room = load_i64(cache, words.GATE) + way.DATA * way.WORD  # where words become values of the same bits
    store_i64(room, 0, bits)
    return code, load_value(room, 0)


@device_function
def load_slowly(cache, address):
    """What `coherent_load` does where its first look finds no copy."""
    if address & (NUM_BYTES - 1):
        return status.MISALIGNED, ZERO
    while True:
        code, note = noted(cache, address)
        if code != status.OK:
            return code, ZERO
        if note == 0:
            return load_uncached(cache, address)
        if note & IS_HOME:
            if is_readable_at_home(cache, note, address):
                return status.OK, load_acquire_value(address, 0)
            code, word, value = make_home_ready(cache, note, address, GET_SHARED)
            if code == status.OK and word != 0:
                loaded = load_acquire_value(address, 0)
                unlock_line(word, value)
                return status.OK, loaded
        else:
            is_private = (note >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK == PRIVATE
            slot = room_for(cache, note, address)
            while slot != NO_SLOT:
                found, loaded = load_hit(cache, note, address, slot)
                if found:
                    return status.OK, loaded
                code, slot = fetch(cache, note, address, GET_OWNED if is_private else GET_SHARED, slot)
        if code != status.OK:
            return code, ZERO


@inlined_function
def coherent_load(cache, address):
    """(code, value) of the element at `address`."""
    note = note_of(cache, address)
    if note & NOT_HOME and address & (NUM_BYTES - 1) == 0:
        found, loaded = load_hit(cache, note, address, own_slot(cache, note, address))
        if found:
            return status.OK, loaded
    return load_slowly(cache, address)


@inlined_function
def modify_hit(cache, note, address, slot, operation, first, second, waits):
    """(OK, what stood there) in this rank's own copy in `slot`; NOT_FOUND where that is not there, or not to be had.
    AGAIN where a sibling's range is under way in the slot's group: at once, or, if this `waits`, after a slice."""
    line_log2 = note & LINE_LOG2_MASK
    geometry = geometry_of(cache, line_log2)
    at, copy = tag_address(geometry, slot), copy_address(geometry, slot, line_log2)
    tag = load_acquire_i64(at, 0)
    if is_free_to_store(state_of_line(tag, (address - BASE) >> line_log2)):
        if compare_swap_i64(at, 0, tag, in_state(tag, PINNED)) == tag:
            # A word that a range writes may be stored to meanwhile, but not loaded, and then stored to.
            if READS_FIRST and held_pin(geometry, slot) != 0:
                code = status.AGAIN
                if waits:
                    control = load_i64(cache, words.CONTROL)
                    code = await_group(control, load_i64(control, RANK), geometry, slot)
                else:
                    set_state(geometry, slot, MODIFIED)
                if code != status.OK:
                    return code, ZERO
            offset = address & ((1 << line_log2) - 1)
            old = modify(copy + offset, operation, first, second)
            store_release_i64(at, 0, in_state(tag, MODIFIED))
            count_hits(cache, slot, 1)
            return status.OK, old
    return status.NOT_FOUND, ZERO


@device_function
def modify_there(cache, note, address, operation, first, second):
    """(code, what stood there): the home's agent does it."""
    gate = load_i64(cache, words.GATE)
    room = gate + way.DATA * way.WORD  # where values become words of the same bits, and back
    store_i64(room, 0, 0)
    store_value(room, 0, second)
    second_bits = load_i64(room, 0)
    store_i64(room, 0, 0)
    store_value(room, 0, first)
    block = note & words.BLOCK_WORD_MASK
    first_bits = load_i64(room, 0)
    code, bits = modify_at_home(cache, address, block, operation, NUM_BYTES, first_bits, second_bits)
    store_i64(room, 0, bits)
    return code, load_value(room, 0)


@device_function
def modify_slowly(cache, address, operation, first, second):
    """What `coherent_modify` does where its first look finds no copy that this rank owns."""
    if address & (NUM_BYTES - 1):
        return status.MISALIGNED, ZERO
    while True:
        code, note = noted(cache, address)
        if code != status.OK:
            return code, ZERO
        if note == 0:
            control = load_i64(cache, words.CONTROL)
            if load_i64(control, PEER_MAPPED + home_rank(control, address)) != 0:
                return status.OK, modify_raw(address, operation, first, second)
            code, old = modify_there(cache, note, address, operation, first, second)
            if code != status.NOT_CACHED:
                return code, old
            continue  # it is cached by now
        is_through = (note >> ATTRIBUTE_SHIFT) & ATTRIBUTE_MASK == THROUGH
        if note & IS_HOME or is_through:
            code, word, value = make_home_ready(cache, note, address, WRITE_HOME)
            if code == status.OK and word != 0:
                old = modify(address, operation, first, second)
                unlock_line(word, value)
                return status.OK, old
            if code == status.NOT_MAPPED:
                code, old = modify_there(cache, note, address, operation, first, second)
                if code != status.NOT_CACHED:
                    return code, old
                continue  # it is not cached as noted, which is forgotten
        else:
            slot = room_for(cache, note, address)
            while slot != NO_SLOT:
                code, old = modify_hit(cache, note, address, slot, operation, first, second, True)
                if code != status.NOT_FOUND:
                    return code, old
                code, slot = fetch(cache, note, address, GET_OWNED, slot)
        if code != status.OK:
            return code, ZERO


@inlined_function
def coherent_modify(cache, address, operation, first, second):
    """(code, what stood there) of the element at `address`, modified."""
    note = note_of(cache, address)
    if note & NOT_HOME and address & (NUM_BYTES - 1) == 0:
        slot = own_slot(cache, note, address)
        code, old = modify_hit(cache, note, address, slot, operation, first, second, False)
        if code == status.OK:
            return code, old
    return modify_slowly(cache, address, operation, first, second)


@inlined_function
def coherent_store(cache, address, value):
    """Put `value` at `address`: a status."""
    code, _ = coherent_modify(cache, address, OPERATION, value, value)
    return code


@inlined_function
def coherent_update(cache, address, value):
    """(code, what stood there) of the element at `address`, changed by `value`."""
    return coherent_modify(cache, address, OPERATION, value, value)


@inlined_function
def coherent_compare_swap(cache, address, expected, desired):
    """(code, what stood there) of the element at `address`, which is `desired` now if it was `expected`."""
    return coherent_modify(cache, address, OPERATION, expected, desired)


# --- what `coherent_modify` does to memory of which nobody keeps copies


@device_function
def store_raw(address, operation, first, second):
    """A release store; what stood there is not told."""
    store_release_value(address, 0, first)
    return ZERO


update_value, compare_swap_value = scalar.fetch_add_i64, scalar.compare_swap_i64


@device_function
def update_raw(address, operation, first, second):
    """One atomic update of 4 or 8 bytes."""
    return update_value(address, 0, first)


@device_function
def compare_swap_raw(address, operation, first, second):
    """One atomic compare-and-swap of 4 or 8 bytes."""
    return compare_swap_value(address, 0, first, second)


@device_function
def raw_any(address, operation, first, second):
    """One atomic update of 4 or 8 bytes, whatever operation the caller names."""
    if operation == operations.FETCH_ADD:
        return update_value(address, 0, first)
    if operation == operations.COMPARE_SWAP:
        return compare_swap_value(address, 0, first, second)
    return exchange_value(address, 0, first)


exchange_value = scalar.exchange_i64
SIGN = 0  # the sign's bit of a signed element


@device_function
def narrow_raw(address, operation, first, second):
    """One atomic update of 1 or 2 bytes, as a compare-and-swap of the word around them."""
    word, shift = address & -4, (address & 3) << 3
    mask = (1 << (8 * NUM_BYTES)) - 1
    while True:
        seen = int(load_relaxed_u32(word, 0))
        bits = (seen >> shift) & mask
        old = (bits ^ SIGN) - SIGN
        new = old + first if operation == operations.FETCH_ADD else first
        if operation == operations.COMPARE_SWAP:  # by bits: a flit's operand has no sign
            new = second if bits == first & mask else old
        desired = (seen & ~(mask << shift)) | (new & mask) << shift
        if compare_swap_u32(word, 0, seen, desired) == seen:
            return old
