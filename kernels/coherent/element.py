"""Coherent access to one element: the templates of kernels/coherent/typed.py, written as for int64.

Each first looks for a copy of the rank's own (hits.py), and else goes the way to the home, as often as it takes.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..intrinsics import scalar
from ..intrinsics.scalar import compare_swap_u32, load_i64, load_relaxed_u32, store_i64
from ..page import gate as gates
from ..page import operations
from ..page.control import reaches_address
from . import layout as words
from .cache import NO_SLOT
from .directory import unlock_line
from .flits import modify_at_home, read_at_home
from .hits import (
    NUM_BYTES,
    OPERATION,
    ZERO,
    is_readable_at_home,
    load_acquire_value,
    load_hit,
    load_value,
    modify,
    modify_hit,
    note_of,
    own_slot,
    store_release_value,
    store_value,
)
from .layout import (
    ATTRIBUTE_MASK,
    ATTRIBUTE_SHIFT,
    GET_OWNED,
    GET_SHARED,
    IS_HOME,
    NOT_HOME,
    PRIVATE,
    THROUGH,
    WRITE_HOME,
)
from .supply import fetch, make_home_ready, noted, room_for

modify_raw = modify  # bound to the same in one atomic step


@device_function
def load_uncached(cache, address):
    """(code, value) of the element at `address`, in memory that is not cached."""
    control = load_i64(cache, words.CACHE_CONTROL)
    if reaches_address(control, address):
        return status.OK, load_acquire_value(address, 0)
    code, bits = read_at_home(cache, address, NUM_BYTES)
    if code != status.OK:
        return code, ZERO
    room = (
        load_i64(cache, words.CACHE_GATE) + gates.GATE_DATA * gates.WORD
    )  # where words become values of the same bits
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


@device_function
def modify_there(cache, note, address, operation, first, second):
    """(code, what stood there): the home's agent does it."""
    gate = load_i64(cache, words.CACHE_GATE)
    room = gate + gates.GATE_DATA * gates.WORD  # where values become words of the same bits, and back
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
            control = load_i64(cache, words.CACHE_CONTROL)
            if reaches_address(control, address):
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
