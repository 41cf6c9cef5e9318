"""Operations by way of staging memory, a step of every block a round.

Between two exchanges a member takes what the others staged before the first, and stages what they will take after the
second. So private buffers are reached, and a small operation takes one exchange: its whole data is staged, or stands
in the slot itself. With one shot everybody reduces everything; with two, each reduces a slice, and what comes of it is
taken a round later.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..data.copy import copy
from ..intrinsics.scalar import load_i64, store_i64
from ..intrinsics.system import call_handler
from .blocks import (
    begin_of_slice,
    block_at,
    block_bytes,
    bytes_in_round,
    place_from,
    sends,
    sent_table,
    takes,
)
from .layout import (
    PERSONAL,
    SLOT_DATA,
    TEAM_DST,
    TEAM_ELEMENT_BYTES,
    TEAM_FLAGS,
    TEAM_IS_INLINE,
    TEAM_LENGTH,
    TEAM_POSITION,
    TEAM_REDUCE,
    TEAM_SEQUENCE,
    TEAM_SHAPE,
    TEAM_SIZE,
    TEAM_SOURCES,
    TEAM_SRC,
    TEAM_STEP_BYTES,
    TEAM_STREAM_BYTES,
    member_after,
    slot_of,
    stage_in,
    stage_out,
)

SLICE_UNIT_BYTES = 64
NEVER = 1 << 62


@device_function
def stream_from(team):
    """Bytes from which a piece of this operation is stored around the caches: by the whole, not by the piece."""
    return 0 if load_i64(team, TEAM_LENGTH) >= load_i64(team, TEAM_STREAM_BYTES) else NEVER


@device_function
def combine(team, dst, num_bytes, stream_bytes):
    """Reduce the pieces of `num_bytes` at TEAM_SOURCES into `dst`, in the members' order."""
    shape = team + 8 * TEAM_SHAPE
    store_i64(shape, 0, load_i64(team, TEAM_SIZE))
    store_i64(shape, 1, num_bytes // load_i64(team, TEAM_ELEMENT_BYTES))
    store_i64(shape, 2, stream_bytes)
    call_handler(load_i64(team, TEAM_REDUCE), dst, load_i64(team, TEAM_SOURCES), shape)


@device_function
def staged_input(team, member, sequence):
    """Where the input of `member` of an exchange stands."""
    if load_i64(team, TEAM_IS_INLINE):
        return slot_of(team, member, sequence) + 8 * SLOT_DATA
    return stage_in(team, member, sequence)


@device_function
def stage_round(team, round_index):
    """Put this member's part of a round where the others take it after the next exchange."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    if num_members == 1 or sends(team, position) == 0:
        return
    step = load_i64(team, TEAM_STEP_BYTES)
    src = load_i64(team, TEAM_SRC) + round_index * step
    target = staged_input(team, position, load_i64(team, TEAM_SEQUENCE) + 1)
    if load_i64(team, TEAM_FLAGS) & PERSONAL == 0:
        copy(target, src, bytes_in_round(load_i64(team, TEAM_LENGTH), step, round_index), NEVER, 0, 1)
        return
    table = sent_table(team, position)
    taker = 0
    while taker < num_members:
        if taker != position and takes(team, taker):
            num_bytes = bytes_in_round(block_bytes(team, table, taker), step, round_index)
            copy(target + taker * step, src + block_at(team, table, taker), num_bytes, NEVER, 0, 1)
        taker += 1


@device_function
def take_blocks(team, round_index):
    """Put the others' parts of a round, and this member's own, where they belong."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    if takes(team, position) == 0:
        return
    step, sequence = load_i64(team, TEAM_STEP_BYTES), load_i64(team, TEAM_SEQUENCE)
    offset = round_index * step
    hop = 0
    while hop < num_members:
        sender = member_after(team, hop)
        if sends(team, sender):
            table = sent_table(team, sender)
            num_bytes = bytes_in_round(block_bytes(team, table, position), step, round_index)
            if sender == position:
                src = load_i64(team, TEAM_SRC) + block_at(team, table, position) + offset
            else:
                src = staged_input(team, sender, sequence)
                if load_i64(team, TEAM_FLAGS) & PERSONAL:
                    src += position * step
            dst = place_from(team, sender) + offset
            if dst != src:
                copy(dst, src, num_bytes, stream_from(team), 0, 1)
        hop += 1


@device_function
def find_sources(team, round_index, offset):
    """Fill TEAM_SOURCES with where the members' parts of a round stand, `offset` bytes into them."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    step, sequence = load_i64(team, TEAM_STEP_BYTES), load_i64(team, TEAM_SEQUENCE)
    sources = load_i64(team, TEAM_SOURCES)
    in_stage, in_source = 0, round_index * step
    if load_i64(team, TEAM_FLAGS) & PERSONAL:
        in_stage, in_source = position * step, in_source + position * load_i64(team, TEAM_LENGTH)
    member = 0
    while member < num_members:
        if member == position:
            store_i64(sources, member, load_i64(team, TEAM_SRC) + in_source + offset)
        else:
            store_i64(sources, member, staged_input(team, member, sequence) + in_stage + offset)
        member += 1


@device_function
def reduce_round(team, round_index):
    """Reduce all of a round into this member's destination."""
    if takes(team, load_i64(team, TEAM_POSITION)):
        step = load_i64(team, TEAM_STEP_BYTES)
        find_sources(team, round_index, 0)
        num_bytes = bytes_in_round(load_i64(team, TEAM_LENGTH), step, round_index)
        combine(team, load_i64(team, TEAM_DST) + round_index * step, num_bytes, stream_from(team))


@device_function
def reduce_slice(team, round_index):
    """Reduce this member's slice of a round to where the others take it after the next exchange."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    step = load_i64(team, TEAM_STEP_BYTES)
    num_bytes = bytes_in_round(load_i64(team, TEAM_LENGTH), step, round_index)
    begin = begin_of_slice(num_bytes, SLICE_UNIT_BYTES, position, num_members)
    end = begin_of_slice(num_bytes, SLICE_UNIT_BYTES, position + 1, num_members)
    if begin < end:
        out = stage_out(team, position, load_i64(team, TEAM_SEQUENCE) + 1) + begin
        find_sources(team, round_index, begin)
        combine(team, out, end - begin, NEVER)


@device_function
def take_slices(team, round_index):
    """Put the slices of a round, which all members have reduced before the last exchange, where they belong."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    if takes(team, position) == 0:
        return
    step, sequence = load_i64(team, TEAM_STEP_BYTES), load_i64(team, TEAM_SEQUENCE)
    num_bytes = bytes_in_round(load_i64(team, TEAM_LENGTH), step, round_index)
    dst = load_i64(team, TEAM_DST) + round_index * step
    member = 0
    while member < num_members:
        begin = begin_of_slice(num_bytes, SLICE_UNIT_BYTES, member, num_members)
        end = begin_of_slice(num_bytes, SLICE_UNIT_BYTES, member + 1, num_members)
        if begin < end:
            copy(dst + begin, stage_out(team, member, sequence) + begin, end - begin, stream_from(team), 0, 1)
        member += 1
