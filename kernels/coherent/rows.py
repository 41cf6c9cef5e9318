"""Reading the protocol's table: which row a request meets, and the directory word that it leads to."""

from __future__ import annotations

from ..build.compile import inlined_function
from ..intrinsics.scalar import load_i64
from ..page.control import CONTROL_NUM_RANKS
from . import layout as words
from .directory import is_named, line_state, owned_by, owner_of, shared_by_nobody, with_sharer
from .layout import (
    ACCESS_HOME,
    ADD_SHARER,
    HOME,
    KEEP_OWNER,
    LINE_OWNED,
    LINE_SHARED,
    LINE_UNCACHED,
    NUM_RELATIONS,
    NUM_REQUESTS,
    OWNER,
    ROW_ACTIONS_MASK,
    ROW_COPY_SHIFT,
    ROW_DIRECTORY_SHIFT,
    ROW_STATE_MASK,
    SET_OWNER,
    SHARER,
    STRANGER,
)


@inlined_function
def relation_of(control, value, rank, home):
    """What the directory word `value` knows of `rank`."""
    if rank == home:
        return HOME
    state = line_state(value)
    if state == LINE_OWNED and owner_of(value) == rank:
        return OWNER
    if state == LINE_SHARED and is_named(value, rank, load_i64(control, CONTROL_NUM_RANKS)):
        return SHARER
    return STRANGER


@inlined_function
def row_of(cache, value, request, relation):
    """The row for a request on a line that is not poisoned; 0 where the protocol has none."""
    index = (line_state(value) * NUM_REQUESTS + request) * NUM_RELATIONS + relation
    return load_i64(cache, words.CACHE_ROWS + index)


@inlined_function
def changes_nothing(row, value):
    """True where the row has only the access itself at the home, and leaves a line whose word is `value` as it is."""
    after = (row >> ROW_DIRECTORY_SHIFT) & ROW_STATE_MASK
    return row & ROW_ACTIONS_MASK == ACCESS_HOME and after == line_state(value)


@inlined_function
def copy_state(row):
    """The state of the requester's copy after the row."""
    return (row >> ROW_COPY_SHIFT) & ROW_STATE_MASK


@inlined_function
def next_word(control, row, value, rank):
    """The directory word after the row's actions for `rank` on a line whose word is `value`."""
    state = (row >> ROW_DIRECTORY_SHIFT) & ROW_STATE_MASK
    if state == LINE_UNCACHED:
        return 0
    if state == LINE_OWNED:
        return owned_by(rank) if row & SET_OWNER else value
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    after = value if line_state(value) == LINE_SHARED else shared_by_nobody(num_ranks)
    if row & KEEP_OWNER:
        after = with_sharer(after, owner_of(value), num_ranks)
    if row & ADD_SHARER:
        after = with_sharer(after, rank, num_ranks)
    return after
