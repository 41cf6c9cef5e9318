"""Where a line comes from: how the memory at an address is cached, and the way to its home, mapped or not."""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..heap.layout import BLOCK_LOG2
from ..intrinsics.scalar import load_i64, load_relaxed_u8, store_relaxed_u8
from ..page.control import BASE, CONTROL_RANK, NO_HOME, home_rank, place_of, shares_meta
from . import layout as words
from .cache import NO_SLOT, geometry_of, set_of
from .directory import block_value, cache_of, directory_word_at
from .eviction import claim_slot, find_room
from .flits import ask_home, forget, get_line_by_flit
from .hits import is_as_noted, note_of
from .layout import (
    ASK_BLOCK,
    BLOCK_WORD_MASK,
    GET_SHARED,
    IS_HOME,
    LINE_LOG2_MASK,
    NOT_HOME,
    RECALL_OWNED,
    RECALL_SHARED,
)
from .transaction import foresee, get_line, lock_home, note_miss


@device_function
def learn(cache, address):
    """(code, note) on the block of `address`, from the home where nothing is noted; note 0: it is not cached.

    What is noted is never taken for true: a miss is checked by the home. That a block is not cached is never
    noted, for others may have it cached later; homes that are not mapped refuse raw access to one that is.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    home = home_rank(control, address)
    if home == NO_HOME:
        return status.OUT_OF_RANGE, 0
    notes, block = load_i64(cache, words.CACHE_NOTES), (address - BASE) >> BLOCK_LOG2
    note = int(load_relaxed_u8(notes, block))
    if note != 0:
        return status.OK, note
    if not shares_meta(control, home):
        code, word = ask_home(cache, address, 0, ASK_BLOCK)
        if code != status.OK:
            return code, 0
    else:
        word = block_value(control, home, address)
    if word == 0:
        return status.OK, 0
    note = (word & BLOCK_WORD_MASK) | (IS_HOME if home == load_i64(control, CONTROL_RANK) else NOT_HOME)
    store_relaxed_u8(notes, block, note)
    return status.OK, note


@inlined_function
def noted(cache, address):
    """(code, note) on the block of `address`, from the home where nothing is noted."""
    note = int(note_of(cache, address))
    if note != 0:
        return status.OK, note
    return learn(cache, address)


@device_function
def look_again(code):
    """OK where the home refused because the block is not what was noted, which is forgotten now; else `code`."""
    return status.OK if code == status.NOT_CACHED else code


@device_function
def recall(cache, note, start, request):
    """Have the home's agent call home the copies that stand in the way of `request`, and that only it can reach."""
    kind = RECALL_SHARED if request == GET_SHARED else RECALL_OWNED
    code, _ = ask_home(cache, start, note & BLOCK_WORD_MASK, kind)
    return code


@inlined_function
def room_for(cache, note, address):
    """The slot that has the line of `address`, else that where it would go."""
    line_log2 = note & LINE_LOG2_MASK
    line = (address - BASE) >> line_log2
    geometry = geometry_of(cache, line_log2)
    return find_room(cache, geometry, line, set_of(geometry, line))


@device_function
def fetch(cache, note, address, request, slot):
    """Get a copy of the line of `address`, of another home, as `request` wants, in `slot` if it may: (code, slot).

    OK: the slot has it, if others have not taken it since; with NO_SLOT look again: a sibling was first, or the block
    is not what was noted, or what stood in the way was called home. Else as `get_line`, or PENDING.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    home, kind, offset = place_of(control, address)
    line_log2 = note & LINE_LOG2_MASK
    line = (address - BASE) >> line_log2
    start = BASE + (line << line_log2)
    is_mapped = shares_meta(control, home) != 0
    word = 0
    if is_mapped:
        home_cache = cache_of(control, home)
        if not is_as_noted(home_cache, kind, offset, note):
            forget(cache, address)
            return status.OK, NO_SLOT
        word = directory_word_at(home_cache, kind, offset, line_log2)
        foresee(control, cache, word, line, line_log2, request)
    code, slot, had = claim_slot(cache, line_log2, line, request, slot)
    if code != status.OK or slot == NO_SLOT:
        return code, NO_SLOT
    if is_mapped:
        code = get_line(cache, home, word, line, line_log2, request, slot, had)
    else:
        code = get_line_by_flit(cache, start, note & BLOCK_WORD_MASK, line_log2, request, slot, had)
    if code == status.NOT_MAPPED:
        code, slot = recall(cache, note, start, request), NO_SLOT
    elif code == status.OK or code == status.PENDING:
        note_miss(cache, request, had, address, line_log2)
    if code != status.OK:
        return look_again(code), NO_SLOT
    return code, slot


@device_function
def make_home_ready(cache, note, address, request):
    """(code, directory word, its next value): as `lock_home`; OK and no word means look again, NOT_MAPPED that
    the home itself has to do it."""
    control = load_i64(cache, words.CACHE_CONTROL)
    home, kind, offset = place_of(control, address)
    if not shares_meta(control, home):
        return status.NOT_MAPPED, 0, 0
    home_cache = cache_of(control, home)
    if not is_as_noted(home_cache, kind, offset, note):
        forget(cache, address)
        return status.OK, 0, 0
    line_log2 = note & LINE_LOG2_MASK
    line = (address - BASE) >> line_log2
    start = BASE + (line << line_log2)
    word = directory_word_at(home_cache, kind, offset, line_log2)
    code, value = lock_home(cache, home, word, address, line, line_log2, request)
    if code == status.NOT_MAPPED:
        return look_again(recall(cache, note, start, request)), 0, 0
    return code, word, value
