"""Collectives of a team in a compiled loop, and the floors under them: what the hardware takes for as much.

`operation` is the address of the words OF_TEAM_*, `plan` as in touch.py; `times` takes nanoseconds, one a sample.
"""

from __future__ import annotations

from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.build.variants import variant
from umem.kernels.collective.layout import BARRIER
from umem.kernels.collective.run import advance, begin
from umem.kernels.data.copy import copy
from umem.kernels.intrinsics.scalar import load_i64, store_i64
from umem.kernels.intrinsics.system import now_ns
from umem.kernels.status import AGAIN, OK, SLICE_NS

from .touch import TOUCHED, read_outputs, touched_operations, write_inputs

(
    OF_TEAM_TEAM,
    OF_TEAM_FLAGS,
    OF_TEAM_WORD,
    OF_TEAM_SRC,
    OF_TEAM_DST,
    OF_TEAM_LENGTH,
    OF_TEAM_ROOT,
    OF_TEAM_REDUCTION,
    OF_TEAM_ELEMENT_BYTES,
) = range(9)

# A row of what a floor moves: all of one table are as long, and are gone through together, piece by piece.
MOVE_KIND, MOVE_DST, MOVE_SRC, MOVE_WORDS = 0, 1, 2, 3
COPY, READ, UPDATE = 0, 1, 2
PIECE_BYTES = 32 << 10  # what is read for several rows comes from the first-level cache


@device_function
def finish(team, epoch, end_ns):
    """Go on with the operation under way until it has ended, or AGAIN after `end_ns`."""
    code = advance(team, epoch, SLICE_NS)
    while code == AGAIN and now_ns() < end_ns:
        code = advance(team, epoch, SLICE_NS)
    return code


@device_function
def do_operation(operation, epoch, end_ns):
    """One operation."""
    team = load_i64(operation, OF_TEAM_TEAM)
    begin(
        team,
        load_i64(operation, OF_TEAM_FLAGS),
        load_i64(operation, OF_TEAM_WORD),
        load_i64(operation, OF_TEAM_SRC),
        load_i64(operation, OF_TEAM_DST),
        load_i64(operation, OF_TEAM_LENGTH),
        load_i64(operation, OF_TEAM_ROOT),
        load_i64(operation, OF_TEAM_REDUCTION),
        load_i64(operation, OF_TEAM_ELEMENT_BYTES),
        0,
    )
    return finish(team, epoch, end_ns)


@device_function
def meet(team, epoch, end_ns):
    """A barrier of the team."""
    begin(team, BARRIER, BARRIER, 0, 0, 0, 0, 0, 1, 0)
    return finish(team, epoch, end_ns)


by_team = cpu_kernel(TOUCHED)(variant(touched_operations, "by_team", do_operation=do_operation, meet=meet))


@device_function
def read(src, num_bytes):
    """The words of memory, added up."""
    total = 0
    word = 0
    while word < num_bytes // 8:
        total += load_i64(src, word)
        word += 1
    return total


@device_function
def update(dst, num_bytes):
    """Change every word of memory."""
    word = 0
    while word < num_bytes // 8:
        store_i64(dst, word, ~load_i64(dst, word))
        word += 1


@device_function
def move(moves, num_moves, num_bytes, stream_bytes):
    """Every row of `moves`; returns a number that depends on all that was read."""
    total = 0
    offset = 0
    while offset < num_bytes:
        piece = min(PIECE_BYTES, num_bytes - offset)
        row = 0
        while row < num_moves:
            at = moves + 8 * MOVE_WORDS * row
            kind = load_i64(at, MOVE_KIND)
            dst, src = load_i64(at, MOVE_DST) + offset, load_i64(at, MOVE_SRC) + offset
            if kind == COPY:
                copy(dst, src, piece, stream_bytes, 0, 1)
            elif kind == READ:
                total += read(src, piece)
            else:
                update(dst, piece)
            row += 1
        offset += piece
    return total


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def by_moves(team, moves, num_moves, num_bytes, stream_bytes, plan, num_samples, times, epoch, end_ns):
    """As many bytes read and written as an operation must, without waiting for anybody while timed."""
    sample = 0
    total = 0
    while sample < num_samples:
        write_inputs(plan)
        code = meet(team, epoch, end_ns)
        if code != OK:
            return code
        began = now_ns()
        total += move(moves, num_moves, num_bytes, stream_bytes)
        store_i64(times, sample, now_ns() - began)
        read_outputs(plan)
        code = meet(team, epoch, end_ns)
        if code != OK:
            return code
        sample += 1
    return OK if total | 1 else AGAIN  # what was read is needed
