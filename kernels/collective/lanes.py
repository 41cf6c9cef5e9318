"""Collectives on a GPU: one lane has the control of run.py, and all lanes of a launch move the bytes.

A launch goes on until the operation has ended, or until a slice of time has passed in which it waited: then the host
looks at deadlines and deaths, and launches it again. It has one block, or several that run all at once (cooperative).
What combines is part of the kernel: there is one for each operation and element type, compiled when asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..build.compile import device_function
from ..build.kernel import Kernel
from ..build.variants import family
from ..data.group import copy_lanes
from ..data.reduce import forms_of
from ..intrinsics.scalar import (
    fetch_add_i64_gpu,
    load_acquire_i64_gpu,
    load_i64,
    load_relaxed_i64_gpu,
    store_i64,
    store_relaxed_i64_gpu,
    store_release_i64_gpu,
)
from ..intrinsics.system import block_lane, block_meet, lane_index, now_ns, num_block_lanes, num_lanes, pause
from ..status import OK
from . import direct, rounds, run
from .blocks import begin_of_slice, takes
from .layout import (
    IDLE,
    TEAM_ARRIVED,
    TEAM_CODE,
    TEAM_ELEMENT_BYTES,
    TEAM_IS_DUE,
    TEAM_LENGTH,
    TEAM_MEETING,
    TEAM_MODE,
    TEAM_POSITION,
    TEAM_SIZE,
    TEAM_SOURCES,
)
from .polling import POLLED, pointer_to

prepare, conclude, step = POLLED.prepare, POLLED.conclude, POLLED.step
WITHOUT_VECTORS = ("i8", "u8", "i16")  # CUDA has no vectors of these
LAUNCH_SIGNATURE = f"void({', '.join(['int64'] * 11)})"


@device_function
def meet(team):
    """Wait for all lanes of the launch: what each has stored is seen by all."""
    block_meet(0)
    num_blocks = num_lanes() // num_block_lanes()
    if num_blocks > 1:
        if block_lane() == 0:
            meeting = load_relaxed_i64_gpu(team, TEAM_MEETING)
            if fetch_add_i64_gpu(team, TEAM_ARRIVED, 1) == num_blocks - 1:
                store_relaxed_i64_gpu(team, TEAM_ARRIVED, 0)
                store_release_i64_gpu(team, TEAM_MEETING, meeting + 1)
            else:
                while load_acquire_i64_gpu(team, TEAM_MEETING) == meeting:
                    pause()
        block_meet(0)


@device_function
def copy_by_lanes(dst, src, num_bytes, stream_bytes, lane, lanes):
    """data/copy.copy by all lanes of the launch, whatever lanes it is called with."""
    copy_lanes(dst, src, num_bytes, lane_index(), num_lanes())


@device_function
def store_once(base, index, value):
    """A store by one lane for all; the others see it once they have met."""
    if lane_index() == 0:
        store_i64(base, index, value)


@device_function
def combine_nothing(team, dst, num_bytes, stream_bytes):
    """`combine` of operations that combine nothing."""


@device_function
def pointer_to_source(team, member):
    """direct.source_of for this processor."""
    return pointer_to(team, direct.source_of(team, member))


@device_function
def pointer_to_destination(team, member):
    """direct.destination_of for this processor."""
    return pointer_to(team, direct.destination_of(team, member))


# A template: the names in it are bound by `movement`.
source_of, destination_of = pointer_to_source, pointer_to_destination
combine, copy, combine_scalars = combine_nothing, copy_by_lanes, forms_of(0, "f32", 0).combine_scalars


@device_function
def reduce_to_all(team):
    """all_reduce and reduce: combine a slice of all sources where one member takes it, and copy it to the others.

    On a CPU a piece at a time stays in the core's cache (direct.py); here all lanes would have to meet for each.
    """
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    length, sources = load_i64(team, TEAM_LENGTH), load_i64(team, TEAM_SOURCES)
    begin = begin_of_slice(length, rounds.SLICE_UNIT_BYTES, position, num_members)
    num_bytes = begin_of_slice(length, rounds.SLICE_UNIT_BYTES, position + 1, num_members) - begin
    if num_bytes == 0:
        return
    first = position
    while takes(team, first) == 0:
        first = first + 1 if first + 1 < num_members else 0
    member = 0
    while member < num_members:
        store_once(sources, member, source_of(team, member) + begin)
        member += 1
    src = destination_of(team, first) + begin
    combine(team, src, num_bytes, rounds.NEVER)
    meet(team)
    member = 0
    while member < num_members:
        if member != first and takes(team, member):
            copy(destination_of(team, member) + begin, src, num_bytes, rounds.NEVER, 0, 1)
        member += 1


MOVES = (
    *(rounds.stage_round, rounds.take_blocks, rounds.find_sources, rounds.reduce_round),
    *(rounds.reduce_slice, rounds.take_slices),
    *(direct.pull_blocks, direct.push_to_all, direct.reduce_block, reduce_to_all, direct.do_directly),
    *(run.take_round, run.move),
)


def movement(suffix: str, combine: Any) -> Any:
    """`move` by all lanes of a launch, with what combines."""
    return family(
        MOVES,
        suffix,
        combine=combine,
        copy=copy_by_lanes,
        store_i64=store_once,
        source_of=pointer_to_source,
        destination_of=pointer_to_destination,
        PUSHED_BYTES=rounds.NEVER,
    ).move


@device_function
def look(team, end_ns):
    """Wait until bytes are due, until the operation has ended, or until `end_ns`: TEAM_IS_DUE, TEAM_CODE."""
    code = OK
    if load_i64(team, TEAM_MODE) != IDLE:
        code = step(team, 0, max(end_ns - now_ns(), 0))
    store_i64(team, TEAM_CODE, code)
    store_i64(team, TEAM_IS_DUE, 1 if code == OK and load_i64(team, TEAM_MODE) != IDLE else 0)


move = movement("of_nothing", combine_nothing)


def operate(team, is_start, flags, call, src, dst, length, root, element_bytes, rows, slice_ns):
    """Begin an operation, or go on with the one under way; TEAM_CODE says how it stands: run.advance's status.

    It is AGAIN where the others have not come for `slice_ns`. Lanes: all move, one waits and decides.
    """
    is_first, end_ns = lane_index() == 0, now_ns() + slice_ns
    if is_first:
        if is_start:
            prepare(team, flags, call, src, dst, length, root, 0, element_bytes, rows)
            store_i64(team, TEAM_IS_DUE, 1)
        else:
            look(team, end_ns)
    meet(team)
    while load_i64(team, TEAM_IS_DUE):
        move(team)
        meet(team)
        if is_first:
            conclude(team)
            look(team, end_ns)
        meet(team)


@device_function
def reduce(dst, sources, num_sources, num_elements, stream_bytes, lane, lanes):
    """data/reduce.reduce of elements that CUDA has no vectors of."""
    combine_scalars(dst, sources, num_sources, 0, num_elements, lane, lanes)


@device_function
def combine_by_lanes(team, dst, num_bytes, stream_bytes):
    """rounds.combine by all lanes of the launch, as a part of the kernel."""
    meet(team)  # the sources stand in one lane's stores
    num_elements = num_bytes // load_i64(team, TEAM_ELEMENT_BYTES)
    num_members, sources = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_SOURCES)
    reduce(dst, sources, num_members, num_elements, rounds.NEVER, lane_index(), num_lanes())


@cache
def operation_kernel(operation: int | None = None, element: str = "") -> Kernel:
    """The kernel of an operation that combines elements, or of all that combine nothing."""
    if operation is None:
        return Kernel(operate, LAUNCH_SIGNATURE)
    suffix, forms = f"of_{operation}_{element}", forms_of(operation, element, unaligned_vectors=0)
    kept = forms.reduce
    if element in WITHOUT_VECTORS:
        kept = family((reduce,), suffix, combine_scalars=forms.combine_scalars).reduce
    combine = family((combine_by_lanes,), suffix, reduce=kept).combine_by_lanes
    return Kernel(family((operate,), suffix, move=movement(suffix, combine)).operate, LAUNCH_SIGNATURE)
