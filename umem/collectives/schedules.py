"""How collectives go by messages: pure functions from an operation's shape to rows that fabric/ucx/schedules.py runs.

Every operation begins with a header to each other member: what was called, with what length, and, where an operation
is small, the data itself. So all find a mismatch before anything else is sent, and a small operation is that one
exchange. Large reductions go by slices: each member gets its slice of all inputs, combines it, and sends it to all that
take. All else goes straight from where it is to where it belongs; what a root has for all, down a tree.

Between two members messages arrive in the order sent, and the rows of all members follow the same order: so one tag a
call is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..fabric.ucx.schedules import (
    DO_CHECK,
    DO_COMBINE,
    DO_COPY,
    DO_RECV,
    DO_SEND,
    DO_WAIT,
    SCHEDULE_ROW_WORDS,
)
from ..kernels.collective.layout import (
    COLLECTS,
    FROM_ROOT,
    PERSONAL,
    REDUCES,
    TABLE_PUT_AT,
    TABLE_SEND,
    TABLE_SEND_AT,
    TABLE_TAKE,
    TO_ROOT,
    VARIES,
)
from ..units import align_up

# The buffers of a run.
SRC, DST, SCRATCH, OUT, HEADERS = range(5)
NUM_BUFFERS = 5

HEADER_WORDS = 2  # what was called, and the length
HEADER_BYTES = 8 * HEADER_WORDS
HEADER_DATA_BYTES = 4096  # up to here the data travels with the header
# Over a network, where a second round trip costs as much as so many bytes: of all blocks that a member sends.
NETWORK_DATA_BYTES = 32 << 10
REDUCED_CHUNK_BYTES = 512 << 10  # of a large reduction, for each member
TREE_CHUNK_BYTES = 256 << 10
SLICE_UNIT = 64


@dataclass(frozen=True)
class Shape:
    """What an operation is, as far as its messages depend on it. `length` is the bytes of a block."""

    flags: int
    length: int
    root: int
    size: int
    position: int
    data_bytes: int = (
        HEADER_DATA_BYTES  # up to here the data travels with the header; all members have the same
    )

    def sends(self, member: int) -> bool:
        """Whether `member` has something to send."""
        return not self.flags & FROM_ROOT or member == self.root

    def takes(self, member: int) -> bool:
        """Whether `member` has something to take."""
        return not self.flags & TO_ROOT or member == self.root

    @property
    def others(self) -> list[int]:
        """The other members, the next one first."""
        return [(self.position + hop) % self.size for hop in range(1, self.size)]


@dataclass
class Schedule:
    """Rows of a run; `sources` of its COMBINEs: (buffer, offset) of each member's input, for one after the other."""

    rows: list[tuple[int, ...]] = field(default_factory=list)
    sources: list[tuple[int, int]] = field(default_factory=list)
    num_requests: int = 0
    scratch_bytes: int = 0

    def send(self, to: int, buffer: int, offset: int, num_bytes: int) -> None:
        """Send to a member."""
        self._message(DO_SEND, to, buffer, offset, num_bytes)

    def recv(self, member: int, buffer: int, offset: int, num_bytes: int) -> None:
        """Receive from a member."""
        self._message(DO_RECV, member, buffer, offset, num_bytes)

    def _message(self, kind: int, member: int, buffer: int, offset: int, num_bytes: int) -> None:
        self.rows.append((kind, member, buffer, offset, num_bytes))
        self.num_requests += 1

    def wait(self, begin: int, end: int | None = None) -> None:
        """Wait for the messages from number `begin` to before `end` (default: all so far)."""
        self.rows.append((DO_WAIT, 0, 0, 0, 0, begin, self.num_requests if end is None else end))

    def copy(self, buffer: int, offset: int, src: int, src_offset: int, num_bytes: int) -> None:
        """Copy from one buffer to another."""
        if num_bytes:
            self.rows.append((DO_COPY, 0, buffer, offset, num_bytes, src, src_offset))

    def combine(self, buffer: int, offset: int, num_bytes: int, sources: list[tuple[int, int]]) -> None:
        """Reduce a piece of every member's input."""
        if num_bytes:
            self.rows.append((DO_COMBINE, 0, buffer, offset, num_bytes, 0, len(self.sources)))
            self.sources += sources

    def check(self) -> None:
        """Compare the headers."""
        self.rows.append((DO_CHECK,))

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and sources as compiled code takes them."""
        rows = np.zeros((max(len(self.rows), 1), SCHEDULE_ROW_WORDS), np.int64)
        for index, row in enumerate(self.rows):
            rows[index, : len(row)] = row
        return rows, np.array(self.sources or [(0, 0)], np.int64)


def is_small(shape: Shape) -> bool:
    """Whether the data travels with the headers."""
    num_blocks = shape.size if shape.flags & PERSONAL else 1
    return not shape.flags & VARIES and shape.length * num_blocks <= shape.data_bytes


def data_bytes_of(size: int, is_network: bool) -> int:
    """`Shape.data_bytes` of a team whose members talk over a network, or by shared memory."""
    return max(NETWORK_DATA_BYTES // max(size - 1, 1), HEADER_DATA_BYTES) if is_network else HEADER_DATA_BYTES


def header_stride(size: int, data_bytes: int) -> int:
    """Bytes between the headers of two members: room for the longest, with data or with tables."""
    return align_up(HEADER_BYTES + max(data_bytes, 16 * size), SLICE_UNIT)


def schedule(shape: Shape, rows: np.ndarray | None = None) -> Schedule:
    """The schedule of an operation at one member. `rows` is the table of all_to_all_v."""
    made = Schedule()
    if is_small(shape):
        _small(made, shape)
    else:
        _announce(made, shape, HEADER_BYTES + (16 * shape.size if shape.flags & VARIES else 0))
        if shape.flags & VARIES:
            assert rows is not None
            _varying(made, shape, rows)
        elif shape.flags & REDUCES:
            _reduction(made, shape)
        elif shape.flags & FROM_ROOT and not shape.flags & PERSONAL:
            _tree(made, shape)
        else:
            _blocks(made, shape)
    made.wait(0)
    return made


def _announce(made: Schedule, shape: Shape, num_bytes: int) -> None:
    """Exchange headers, all alike, and compare them."""
    stride = header_stride(shape.size, shape.data_bytes)
    for member in shape.others:
        made.recv(member, HEADERS, member * stride, stride)
    for member in shape.others:
        made.send(member, HEADERS, shape.position * stride, num_bytes)
    made.wait(0)
    made.check()


def _small(made: Schedule, shape: Shape) -> None:
    """Data and headers in one exchange. A header in OUT is followed by the block of the member that it goes to."""
    stride, length, is_personal = (
        header_stride(shape.size, shape.data_bytes),
        shape.length,
        shape.flags & PERSONAL,
    )
    for member in shape.others:
        made.recv(member, HEADERS, member * stride, stride)
    if shape.sends(shape.position) and not is_personal:
        made.copy(HEADERS, shape.position * stride + HEADER_BYTES, SRC, 0, length)
    for member in shape.others:
        carries = length if shape.sends(shape.position) and shape.takes(member) else 0
        if is_personal:
            made.copy(OUT, member * stride, HEADERS, shape.position * stride, HEADER_BYTES)
            if carries:
                made.copy(OUT, member * stride + HEADER_BYTES, SRC, member * length, length)
            made.send(member, OUT, member * stride, HEADER_BYTES + carries)
        else:
            made.send(member, HEADERS, shape.position * stride, HEADER_BYTES + carries)
    made.wait(0)
    made.check()
    if not shape.takes(shape.position):
        return
    own = (SRC, shape.position * length if is_personal else 0)
    places = [
        own if member == shape.position else (HEADERS, member * stride + HEADER_BYTES)
        for member in range(shape.size)
    ]
    if shape.flags & REDUCES:
        made.combine(DST, 0, length, places)
        return
    for member in range(shape.size):
        if shape.sends(member):
            made.copy(DST, member * length if shape.flags & COLLECTS else 0, *places[member], length)


def _varying(made: Schedule, shape: Shape, rows: np.ndarray) -> None:
    """all_to_all_v."""
    for member in shape.others:
        if rows[member, TABLE_TAKE]:
            made.recv(member, DST, int(rows[member, TABLE_PUT_AT]), int(rows[member, TABLE_TAKE]))
    for member in shape.others:
        if rows[member, TABLE_SEND]:
            made.send(member, SRC, int(rows[member, TABLE_SEND_AT]), int(rows[member, TABLE_SEND]))
    own = rows[shape.position]
    made.copy(DST, int(own[TABLE_PUT_AT]), SRC, int(own[TABLE_SEND_AT]), int(own[TABLE_SEND]))


def _blocks(made: Schedule, shape: Shape) -> None:
    """Whole blocks, straight to their places."""
    length, position = shape.length, shape.position
    for member in reversed(shape.others):
        if shape.sends(member) and shape.takes(position):
            made.recv(member, DST, member * length if shape.flags & COLLECTS else 0, length)
    for member in shape.others:
        if shape.sends(position) and shape.takes(member):
            made.send(member, SRC, member * length if shape.flags & PERSONAL else 0, length)
    if shape.sends(position) and shape.takes(position):
        place = position * length if shape.flags & COLLECTS else 0
        made.copy(DST, place, SRC, position * length if shape.flags & PERSONAL else 0, length)


def _tree(made: Schedule, shape: Shape) -> None:
    """broadcast: down a binomial tree, chunk after chunk, so that all its levels work at once."""
    index = (shape.position - shape.root) % shape.size
    parent, children = tree(index, shape.size)
    chunks = [
        (begin, min(TREE_CHUNK_BYTES, shape.length - begin))
        for begin in range(0, shape.length, TREE_CHUNK_BYTES)
    ]
    first = made.num_requests
    if parent is not None:
        for begin, num_bytes in chunks:
            made.recv((parent + shape.root) % shape.size, DST, begin, num_bytes)
    for turn, (begin, num_bytes) in enumerate(chunks):
        if parent is not None and children:
            made.wait(first + turn, first + turn + 1)
        for child in children:
            made.send((child + shape.root) % shape.size, DST, begin, num_bytes)


def tree(index: int, size: int) -> tuple[int | None, list[int]]:
    """Parent and children in a binomial tree whose root is 0; the child with the most below it first."""
    bit = 1
    while bit < size and not index & bit:
        bit <<= 1
    parent = index - bit if index else None
    children = []
    bit >>= 1
    while bit:
        if index + bit < size:
            children.append(index + bit)
        bit >>= 1
    return parent, children


def _reduction(made: Schedule, shape: Shape) -> None:
    """Chunk after chunk: slices to the members that combine them, and back. The inputs of a chunk travel while the
    chunk before is combined."""
    size, position, others = shape.size, shape.position, shape.others
    is_scattered = bool(shape.flags & PERSONAL)
    piece = REDUCED_CHUNK_BYTES  # of a chunk, that one member combines
    step = piece if is_scattered else piece * size
    chunks = [(begin, min(step, shape.length - begin)) for begin in range(0, shape.length, step)]
    made.scratch_bytes = 2 * size * piece + piece

    def part(chunk: tuple[int, int], member: int) -> tuple[int, int]:
        """Begin and length in a source of what `member` combines."""
        begin, num_bytes = chunk
        if is_scattered:
            return member * shape.length + begin, num_bytes
        each = align_up((num_bytes + size - 1) // size, SLICE_UNIT)
        return begin + min(member * each, num_bytes), min(max(num_bytes - member * each, 0), each)

    def room(turn: int, member: int) -> int:
        return ((turn & 1) * size + member) * piece

    def gather(turn: int) -> tuple[int, int]:
        begin = made.num_requests
        _, mine = part(chunks[turn], position)
        for member in reversed(others):
            if mine:
                made.recv(member, SCRATCH, room(turn, member), mine)
        for member in others:
            at, num_bytes = part(chunks[turn], member)
            if num_bytes:
                made.send(member, SRC, at, num_bytes)
        return begin, made.num_requests

    under_way = gather(0)
    returned = (0, 0)  # results on their way out of scratch memory
    for turn, chunk in enumerate(chunks):
        following = gather(turn + 1) if turn + 1 < len(chunks) else (0, 0)
        made.wait(*under_way)
        at, mine = part(chunk, position)
        sources = [
            (SRC, at) if member == position else (SCRATCH, room(turn, member)) for member in range(size)
        ]
        is_taker = shape.takes(position)
        target = (DST, at - position * shape.length if is_scattered else at)
        if not is_taker:
            made.wait(*returned)
            target = (SCRATCH, 2 * size * piece)
        made.combine(*target, mine, sources)
        begin = made.num_requests
        if not is_scattered:
            if is_taker:
                for member in reversed(others):
                    back, num_bytes = part(chunk, member)
                    if num_bytes:
                        made.recv(member, DST, back, num_bytes)
            for member in others:
                if mine and shape.takes(member):
                    made.send(member, *target, mine)
        returned = (begin, made.num_requests)
        under_way = following
