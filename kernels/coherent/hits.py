"""What a rank finds in its own cache, or in its own memory as the home: the accesses that ask nobody.

Templates, written as for int64, of the accesses in typed.py, which go on where these find nothing, and of the scalar
accesses of Python in kernels/access.py.

A hit is the load itself and the tag before and behind it: behind it, because a thread of the same rank may have
given the slot to another line meanwhile. A store pins the line first (one compare-and-swap): a store that only
checks before, or only behind, can land in a slot that others have just taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from .. import status
from ..build.compile import device_function, inlined_function
from ..build.variants import bind, family
from ..heap.layout import BLOCK_LOG2
from ..intrinsics import scalar
from ..intrinsics.elements import ELEMENTS
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_u8,
    store_release_i64,
)
from ..page import operations
from ..page.control import BASE, CONTROL_RANK, place_of
from . import layout as words
from .cache import (
    NO_SLOT,
    await_group,
    copy_address,
    count,
    count_hits,
    first_slot,
    geometry_of,
    held_pin,
    in_state,
    is_free_to_store,
    is_readable,
    search,
    set_state,
    state_of_line,
    tag_address,
)
from .directory import block_word, directory_word_at, line_state
from .layout import (
    BLOCK_WORD_MASK,
    GET_SHARED,
    HOME,
    IS_HOME,
    LINE_LOG2_MASK,
    LINE_POISONED,
    MODIFIED,
    NOT_HOME,
    PINNED,
    TAG_STATE_BITS,
)
from .rows import changes_nothing, row_of

WINDOW_LOG2 = 46  # notes are kept on all blocks of so many addresses, the windows among them


@inlined_function
def note_of(cache, address):
    """What this rank has noted on the block of `address`: its line size and attribute; 0 for nothing."""
    distance = address - BASE
    if distance >> WINDOW_LOG2 != 0:
        return 0
    return load_relaxed_u8(load_i64(cache, words.CACHE_NOTES), distance >> BLOCK_LOG2)


@inlined_function
def is_as_noted(home_cache, kind, offset, note):
    """True where the mapped home, whose header is `home_cache`, says the same of the block at this place as `note`."""
    return (load_acquire_i64(block_word(home_cache, kind, offset), 0) ^ note) & BLOCK_WORD_MASK == 0


@device_function
def is_readable_at_home(cache, note, address):
    """True where the memory of this rank, the home, holds what a load must find: by the table it changes nothing.

    Others may have had the block cached anew since it was noted: in lines of another size other words speak for it.
    """
    _, kind, offset = place_of(load_i64(cache, words.CACHE_CONTROL), address)
    if not is_as_noted(cache, kind, offset, note):
        return False
    word = directory_word_at(cache, kind, offset, note & LINE_LOG2_MASK)
    value = load_acquire_i64(word, 0)
    if line_state(value) == LINE_POISONED or not changes_nothing(
        row_of(cache, value, GET_SHARED, HOME), value
    ):
        return False
    count(cache, words.NUM_HOME_ACCESSES, 1)
    return True


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
        if (load_acquire_i64(at, 0) ^ tag) >> TAG_STATE_BITS == 0:
            count_hits(cache, slot, 1)
            return 1, value
    return 0, ZERO


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
                    control = load_i64(cache, words.CACHE_CONTROL)
                    code = await_group(control, load_i64(control, CONTROL_RANK), geometry, slot)
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
def slot_of(cache, note, address):
    """The slot that has the line of `address`, whichever of its set; else NO_SLOT."""
    line_log2 = note & LINE_LOG2_MASK
    slot, _ = search(geometry_of(cache, line_log2), (address - BASE) >> line_log2)
    return slot


@device_function
def load_here(cache, address):
    """(OK, value) of the aligned element at `address` where this rank asks nobody for it: from its own copy, or its
    own memory. Else (CACHED, 0)."""
    note = note_of(cache, address)
    if note & IS_HOME:
        if is_readable_at_home(cache, note, address):
            return status.OK, load_acquire_value(address, 0)
    elif note & NOT_HOME:
        found, loaded = load_hit(cache, note, address, own_slot(cache, note, address))
        if not found:
            slot = slot_of(cache, note, address)
            if slot != NO_SLOT:
                found, loaded = load_hit(cache, note, address, slot)
        if found:
            return status.OK, loaded
    return status.CACHED, ZERO


@device_function
def modify_here(cache, address, operation, first, second):
    """(OK, what stood there) of the aligned element at `address`, modified in this rank's own copy. Else (CACHED, 0),
    and nothing is done."""
    note = note_of(cache, address)
    if note & NOT_HOME:
        slot = own_slot(cache, note, address)
        code, old = modify_hit(cache, note, address, slot, operation, first, second, False)
        if code != status.OK:
            slot = slot_of(cache, note, address)
            if slot != NO_SLOT:
                code, old = modify_hit(cache, note, address, slot, operation, first, second, False)
        if code == status.OK:
            return code, old
    return status.CACHED, ZERO


# --- their variants

_NUMPY = {"i": "int", "u": "uint", "f": "float"}


def names_of(element: str) -> dict[str, Any]:
    """What the templates' names mean for an element."""
    row = ELEMENTS[element]
    verbs = ("load", "store", "load_acquire", "store_release")
    bound = {f"{verb}_value": getattr(scalar, f"{verb}_{element}") for verb in verbs}
    zero = np.dtype(f"{_NUMPY[row.kind]}{8 * row.num_bytes}").type(0)
    return {**bound, "NUM_BYTES": row.num_bytes, "ZERO": zero}


def names_of_change(element: str, verb: str) -> dict[str, Any]:
    """What they mean for store, fetch_add, exchange or compare_swap of an element."""
    bodies: dict[str, Callable[..., Any]] = {"store": put, "fetch_add": add, "compare_swap": swap_if_equal}
    names = {**names_of(element), "READS_FIRST": int(verb != "store")}
    return {**names, "modify": bind(bodies.get(verb, modify), f"{verb}_{element}", names)}


def load_here_of(element: str) -> Callable[..., Any]:
    """`load_here` of an element."""
    return cast(Callable[..., Any], family((load_hit, load_here), element, **names_of(element)).load_here)


def modify_here_of(element: str, verb: str) -> Callable[..., Any]:
    """`modify_here` for store, fetch_add, exchange or compare_swap of an element."""
    names = names_of_change(element, verb)
    made = family((modify_hit, modify_here), f"{verb}_{element}", **names)
    return cast(Callable[..., Any], made.modify_here)
