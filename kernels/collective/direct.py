"""Operations on buffers that all members map: each input is read once, each result written once, without staging.

Between the exchange that tells where the buffers lie and the one that ends the operation. A member of a reduction
combines a slice of all inputs and writes it to all that take; blocks are pulled, and pushed where one goes to many.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..data.copy import copy
from ..intrinsics.scalar import load_i64, store_i64
from ..intrinsics.system import stream_fence
from .blocks import begin_of_slice, block_at, block_bytes, place_from, sends, sent_table, takes
from .layout import (
    ALL_GATHER,
    PERSONAL,
    SLOT_DST,
    SLOT_SRC,
    TEAM_DST,
    TEAM_FLAGS,
    TEAM_LENGTH,
    TEAM_POSITION,
    TEAM_SCRATCH,
    TEAM_SCRATCH_BYTES,
    TEAM_SEQUENCE,
    TEAM_SIZE,
    TEAM_SOURCES,
    TEAM_SRC,
    TEAM_STREAM_BYTES,
    member_after,
    slot_of,
)
from .listed import stream_row
from .rounds import NEVER, SLICE_UNIT_BYTES, combine, stream_from

PUSHED_BYTES = 32 << 10  # of a source at a time: in the second-level cache for the second store


@device_function
def all_are_mapped(team):
    """1 where every buffer of the operation is memory that all members map, as their slots say."""
    num_members, sequence = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_SEQUENCE)
    member = 0
    while member < num_members:
        slot = slot_of(team, member, sequence)
        if sends(team, member) and load_i64(slot, SLOT_SRC) == 0:
            return 0
        if takes(team, member) and load_i64(slot, SLOT_DST) == 0:
            return 0
        member += 1
    return 1


@device_function
def source_of(team, member):
    """Address of a member's source."""
    return load_i64(slot_of(team, member, load_i64(team, TEAM_SEQUENCE)), SLOT_SRC)


@device_function
def destination_of(team, member):
    """Address of a member's destination."""
    return load_i64(slot_of(team, member, load_i64(team, TEAM_SEQUENCE)), SLOT_DST)


@device_function
def pull_blocks(team):
    """Copy what is for this member from the others' sources."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    if takes(team, position) == 0:
        return
    hop = 0
    while hop < num_members:
        sender = member_after(team, hop)
        if sends(team, sender):
            table = sent_table(team, sender)
            num_bytes = block_bytes(team, table, position)
            if num_bytes:
                src = source_of(team, sender) + block_at(team, table, position)
                dst = place_from(team, sender)
                if dst != src:
                    copy(dst, src, num_bytes, load_i64(team, TEAM_STREAM_BYTES), 0, 1)
        hop += 1


@device_function
def push_to_all(team):
    """all_gather: read this member's block once, and store it to every member's destination."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    src, length = load_i64(team, TEAM_SRC), load_i64(team, TEAM_LENGTH)
    offset = 0
    while offset < length:
        piece = min(PUSHED_BYTES, length - offset)
        member = 0
        while member < num_members:
            dst = destination_of(team, member) + position * length
            if dst != src:
                copy(dst + offset, src + offset, piece, 0, 0, 1)
            member += 1
        offset += piece


@device_function
def reduce_block(team):
    """reduce_scatter: combine what all members have for this one."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    length, sources = load_i64(team, TEAM_LENGTH), load_i64(team, TEAM_SOURCES)
    member = 0
    while member < num_members:
        store_i64(sources, member, source_of(team, member) + position * length)
        member += 1
    combine(team, load_i64(team, TEAM_DST), length, load_i64(team, TEAM_STREAM_BYTES))


@device_function
def reduce_to_all(team):
    """all_reduce and reduce: combine a slice of all sources, piece by piece, and store it to all that take.

    In place the lines are in the cache, for they have been read; elsewhere large results go around it, with one fence
    at the end: after every piece it would have the next one's loads wait for the stores.
    """
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    length, sources = load_i64(team, TEAM_LENGTH), load_i64(team, TEAM_SOURCES)
    scratch, streamed = load_i64(team, TEAM_SCRATCH), stream_from(team)
    begin = begin_of_slice(length, SLICE_UNIT_BYTES, position, num_members)
    end = begin_of_slice(length, SLICE_UNIT_BYTES, position + 1, num_members)
    while begin < end:
        piece = min(TEAM_SCRATCH_BYTES, end - begin)
        member = 0
        while member < num_members:
            store_i64(sources, member, source_of(team, member) + begin)
            member += 1
        combine(team, scratch, piece, NEVER)
        member = 0
        while member < num_members:
            if takes(team, member):
                dst = destination_of(team, member)
                if streamed == 0 and dst != source_of(team, member):
                    stream_row(dst + begin, scratch, piece)
                else:
                    copy(dst + begin, scratch, piece, NEVER, 0, 1)
            member += 1
        begin += piece
    if streamed == 0:
        stream_fence()


@device_function
def do_directly(team, reduces):
    """This member's part of the operation."""
    flags = load_i64(team, TEAM_FLAGS)
    if reduces:
        if flags & PERSONAL:
            reduce_block(team)
        else:
            reduce_to_all(team)
    elif flags == ALL_GATHER and load_i64(team, TEAM_LENGTH) >= load_i64(team, TEAM_STREAM_BYTES):
        push_to_all(team)
    else:
        pull_blocks(team)
