"""Which bytes go from whom to whom: the one place that knows what the kinds of operations do with their blocks."""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64
from .layout import (
    COLLECTS,
    FROM_ROOT,
    PERSONAL,
    TABLE_PUT_AT,
    TABLE_ROW_WORDS,
    TABLE_SEND,
    TABLE_SEND_AT,
    TEAM_DST,
    TEAM_FLAGS,
    TEAM_LENGTH,
    TEAM_POSITION,
    TEAM_ROOT,
    TO_ROOT,
    VARIES,
    table_of,
)


@device_function
def sends(team, member):
    """1 where `member` has something to send."""
    from_root = load_i64(team, TEAM_FLAGS) & FROM_ROOT
    return 1 if from_root == 0 or member == load_i64(team, TEAM_ROOT) else 0


@device_function
def takes(team, member):
    """1 where `member` has something to take."""
    to_root = load_i64(team, TEAM_FLAGS) & TO_ROOT
    return 1 if to_root == 0 or member == load_i64(team, TEAM_ROOT) else 0


@device_function
def block_bytes(team, table, taker):
    """Bytes that go to `taker` from the member whose `table` it is."""
    if load_i64(team, TEAM_FLAGS) & VARIES:
        return load_i64(table, TABLE_ROW_WORDS * taker + TABLE_SEND)
    return load_i64(team, TEAM_LENGTH)


@device_function
def block_at(team, table, taker):
    """Byte offset in the sender's source of what goes to `taker`."""
    flags = load_i64(team, TEAM_FLAGS)
    if flags & VARIES:
        return load_i64(table, TABLE_ROW_WORDS * taker + TABLE_SEND_AT)
    return taker * load_i64(team, TEAM_LENGTH) if flags & PERSONAL else 0


@device_function
def place_from(team, sender):
    """Pointer into this member's destination: where the block from `sender` goes."""
    dst, flags = load_i64(team, TEAM_DST), load_i64(team, TEAM_FLAGS)
    if flags & VARIES:
        own = table_of(team, load_i64(team, TEAM_POSITION))
        return dst + load_i64(own, TABLE_ROW_WORDS * sender + TABLE_PUT_AT)
    return dst + sender * load_i64(team, TEAM_LENGTH) if flags & COLLECTS else dst


@device_function
def sent_table(team, sender):
    """Table of what `sender` sends, or 0 where all blocks are alike."""
    return table_of(team, sender) if load_i64(team, TEAM_FLAGS) & VARIES else 0


@device_function
def begin_of_slice(length, unit, slice_index, num_slices):
    """First byte of a slice of `length` bytes, all but the last of which are as long and multiples of `unit`."""
    each = ((length + num_slices - 1) // num_slices + unit - 1) // unit * unit
    return min(slice_index * each, length)


@device_function
def bytes_in_round(num_bytes, step_bytes, round_index):
    """How many of a block's bytes belong to a round of `step_bytes`."""
    return min(max(num_bytes - round_index * step_bytes, 0), step_bytes)
