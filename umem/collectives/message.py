"""A team whose members send each other messages: its operations are schedules, run by compiled code."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CollectiveMismatch, FabricMissing, RankLost
from ..fabric.ucx import schedules as compiled
from ..fabric.ucx.channels import has_shared_memory
from ..fabric.ucx.library import INSTALL_UCX
from ..fabric.ucx.port import PORT_UCX_STATUS
from ..fabric.ucx.schedules import (
    RUN_BUFFERS,
    RUN_CHECK_WORDS,
    RUN_COMBINE,
    RUN_CURSOR,
    RUN_ELEMENT_BYTES,
    RUN_ENDPOINTS,
    RUN_FAILED,
    RUN_HEADER_STRIDE,
    RUN_HEADERS,
    RUN_MEMBERS,
    RUN_NUM_REQUESTS,
    RUN_NUM_ROWS,
    RUN_NUM_TABLE_WORDS,
    RUN_OTHER,
    RUN_PORTS,
    RUN_POSITION,
    RUN_RANKS,
    RUN_REQUESTS,
    RUN_ROWS,
    RUN_SIZE,
    RUN_SOURCE_ROWS,
    RUN_SOURCES,
    RUN_TAG_OUT,
    RUN_TAGS_IN,
    RUN_WORDS,
)
from ..fabric.ucx.tags import COLLECTIVE, wire
from ..kernels import status
from ..kernels.collective.layout import BARRIER, TABLE_ROW_WORDS, TABLE_SEND, TABLE_TAKE, VARIES
from ..kernels.collective.reductions import reduction
from ..world.waiting import Deadline, until
from .calls import in_words
from .member import WaitingMember, varying_in_words
from .schedules import (
    DST,
    HEADER_WORDS,
    HEADERS,
    NUM_BUFFERS,
    OUT,
    SCRATCH,
    SRC,
    Schedule,
    Shape,
    data_bytes_of,
    header_stride,
    schedule,
)

if TYPE_CHECKING:
    from ..space.space import Space

MAX_SCHEDULES = 128  # that a team keeps: a program calls the same operations again and again
ABANDON_S = 1.0
NUMBER_BITS, SEQUENCE_BITS = 16, 8  # of a tag
# What UCX may still write to although its team has ended: parts of teams, with what they hold.
_UNFINISHED: list[Any] = []


class MessageTeam(WaitingMember):
    """This rank's part of a team by messages. `number` is the team's own among those of its first member's."""

    semantics = "message"

    def __init__(self, space: Space, ranks: Sequence[int], key: str, timeout_s: float, number: int):
        super().__init__(space, ranks, key, timeout_s)
        fabric = space.fabric
        if fabric is None:
            raise FabricMissing(f"a team by messages needs UCX, which is not installed. Fix: {INSTALL_UCX}")
        self._fabric = fabric
        self._ports = [fabric.ports.take(rank) for rank in self.ranks]
        own = self.ranks[0] << NUMBER_BITS | number & (1 << NUMBER_BITS) - 1
        self._tag = COLLECTIVE | own << SEQUENCE_BITS
        self._num_calls = 0
        self._last: tuple[int, int] | None = None
        self._schedules: OrderedDict[Shape, _Ready] = OrderedDict()
        is_one_host = len({space.world.hosts[rank] for rank in self.ranks}) == 1
        is_network = not (is_one_host and has_shared_memory(space.world.ucx_environment))
        self._data_bytes = data_bytes_of(self.size, is_network)
        stride = header_stride(self.size, self._data_bytes)
        self._headers = np.zeros(self.size * stride // 8, np.int64)
        self._own_header = self._headers[self.position * stride // 8 :]
        self._out = np.zeros(self.size * stride // 8, np.int64)
        self._scratch = np.empty(0, np.uint8)
        self._requests = self._members = np.zeros(0, np.int64)
        endpoints = [fabric.peers[rank].messages.handle for rank in self.ranks if rank != space.rank]
        endpoints.insert(self.position, 0)
        self._lists = [
            np.array(words, np.int64)
            for words in ([port.address for port in self._ports], endpoints, self.ranks)
        ]
        self._tags_in, self._sources = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        self._senders = np.array([wire(rank, 0) for rank in self.ranks], np.uint64).view(np.int64)
        self._buffers = np.zeros(NUM_BUFFERS, np.int64)
        self._words = words = np.zeros(RUN_WORDS, np.int64)
        words[RUN_PORTS], words[RUN_ENDPOINTS], words[RUN_RANKS] = [each.ctypes.data for each in self._lists]
        words[RUN_TAGS_IN], words[RUN_SOURCES] = self._tags_in.ctypes.data, self._sources.ctypes.data
        words[RUN_BUFFERS], words[RUN_HEADERS] = self._buffers.ctypes.data, self._headers.ctypes.data
        words[RUN_SIZE], words[RUN_POSITION] = self.size, self.position
        words[RUN_HEADER_STRIDE], words[RUN_CHECK_WORDS] = stride, HEADER_WORDS
        self._buffers[OUT], self._buffers[HEADERS] = self._out.ctypes.data, self._headers.ctypes.data
        self.address = words.ctypes.data
        self._advance = partial(compiled.advance.compiled, self.address)

    def combining(self, operation: int, element: str) -> int:
        """Address of the function that combines."""
        return reduction(operation, element).address

    def run(
        self,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int = 0,
        combining: int = 0,
        element_bytes: int = 1,
        rows: int = 0,
    ) -> None:
        """Do one operation; see `Member.run`."""
        if self._broken is not None:
            self._refuse()
        self.prepare(flags, call, src, dst, length, root, combining, element_bytes, rows)
        self._do(call, length)

    def announce(self, call: int, length: int) -> None:
        """Exchange the heads of an operation that goes on otherwise: all members have called it when this returns."""
        if self._broken is not None:
            self._refuse()
        self._tell(call, length)
        self._use(self._ready(self._shape(BARRIER, 0, 0)))
        self._number()
        self._do(call, length)

    def exchange(self, made: Schedule, base: int, call: int, length: int) -> None:
        """Run a schedule without heads, with SRC and DST at `base`, as a part of the operation that is named.

        All members do so as often, though not all must have something to send.
        """
        if self._broken is not None:
            self._refuse()
        self._use(_Ready(made))
        self._buffers[SRC] = self._buffers[DST] = base
        self._number()
        self._do(call, length)

    def _do(self, call: int, length: int) -> None:
        """Run what has been prepared."""
        try:
            code = self._advance()
            if code == status.AGAIN:
                self._see_through(code, call, length, self._step)
            elif code != status.OK:
                self._see_through(self._explained(code), call, length, self._step)
        except CollectiveMismatch:
            raise
        except BaseException as error:
            self._broken = error
            self._abandon()
            raise
        self._last = (call, length)

    def prepare(
        self,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int,
        combining: int,
        element_bytes: int,
        rows: int,
    ) -> None:
        """Make the words ready for a run of fabric/ucx/schedules.py's `advance`."""
        self._tell(call, length)
        words, header = self._words, self._own_header
        shape = self._shape(flags, length, root)
        if flags & VARIES:
            image = (ctypes.c_int64 * (TABLE_ROW_WORDS * self.size)).from_address(rows)
            table = np.ctypeslib.as_array(image).reshape(self.size, -1)
            header[HEADER_WORDS : HEADER_WORDS + self.size] = table[:, TABLE_SEND]
            header[HEADER_WORDS + self.size : HEADER_WORDS + 2 * self.size] = table[:, TABLE_TAKE]
            words[RUN_NUM_TABLE_WORDS] = 2 * self.size
            ready = _Ready(schedule(shape, table))
        else:
            ready = self._ready(shape)
        self._use(ready)
        self._buffers[SRC], self._buffers[DST] = src, dst
        words[RUN_COMBINE], words[RUN_ELEMENT_BYTES] = combining, element_bytes
        self._number()

    def _shape(self, flags: int, length: int, root: int) -> Shape:
        return Shape(flags, length, root, self.size, self.position, self._data_bytes)

    def _tell(self, call: int, length: int) -> None:
        self._own_header[0], self._own_header[1] = call, length
        self._words[RUN_NUM_TABLE_WORDS] = 0

    def _number(self) -> None:
        """Give the messages of this operation a tag of their own."""
        self._num_calls += 1
        tag = self._tag | self._num_calls & (1 << SEQUENCE_BITS) - 1
        self._words[RUN_TAG_OUT] = int(self._senders[self.position]) | tag
        np.bitwise_or(self._senders, tag, out=self._tags_in)

    def _ready(self, shape: Shape) -> _Ready:
        known = self._schedules.get(shape)
        if known is None:
            known = self._schedules[shape] = _Ready(schedule(shape))
            if len(self._schedules) > MAX_SCHEDULES:
                self._schedules.popitem(last=False)
        return known

    def _use(self, ready: _Ready) -> None:
        words = self._words
        if ready.num_requests > len(self._requests):
            self._requests, self._members = np.zeros((2, 2 * ready.num_requests), np.int64)
            words[RUN_REQUESTS], words[RUN_MEMBERS] = self._requests.ctypes.data, self._members.ctypes.data
        if ready.scratch_bytes > len(self._scratch):
            self._scratch = np.empty(ready.scratch_bytes, np.uint8)
            self._buffers[SCRATCH] = self._scratch.ctypes.data
        self._current = ready
        words[RUN_ROWS], words[RUN_NUM_ROWS] = ready.rows_address, ready.num_rows
        words[RUN_SOURCE_ROWS] = ready.sources_address
        words[RUN_CURSOR] = words[RUN_NUM_REQUESTS] = 0

    def leave(self) -> None:
        """Nothing that others could use goes."""
        self._put_back()

    def close(self) -> None:
        """Return when all have closed: a message of the team's is then nobody's any more."""
        self.end()
        self.tell("left", "")
        self._put_back()

    def _put_back(self) -> None:
        ports, self._ports = self._ports, []
        if not any(self is part for part, *_ in _UNFINISHED):
            for rank, port in zip(self.ranks, ports, strict=False):
                self._fabric.ports.put_back(rank, port)

    # --- where it does not go well

    def _step(self) -> int:
        return self._explained(self._advance())

    def _explained(self, code: int) -> int:
        """`code`, unless it says that a member is gone or UCX has failed."""
        rank = self.ranks[int(self._words[RUN_FAILED])]
        if code == status.AGAIN and (failure := self._fabric.peers[rank].failure):
            raise self._fabric.broken("a collective", rank, failure, self.needs)
        if code == status.RANK_LOST:
            raise RankLost(rank, "a collective over ucx", self.space.page.lost_ranks().get(rank, ""))
        if code == status.FABRIC_FAILED:
            port = self._ports[int(self._words[RUN_FAILED])]
            raise self._fabric.broken("a collective", rank, int(port.words[PORT_UCX_STATUS]), self.needs)
        return int(code)

    def _abandon(self) -> None:
        """Give up what is under way. What UCX does not let go of is kept for as long as this process lives."""
        if not self.space.is_open:
            return
        abandon = compiled.abandon_all.compiled
        cancels = [1]
        ended = until(
            lambda: True if abandon(self.address, cancels.pop() if cancels else 0) == status.OK else None,
            Deadline(ABANDON_S),
        )
        if ended is None:
            _UNFINISHED.append((self, self.held, self._current))

    def _mismatch(self, call: int, length: int) -> CollectiveMismatch:
        other = int(self._words[RUN_OTHER])
        their_call, their_length = (int(word) for word in self._header(other)[:HEADER_WORDS])
        mine, others = in_words(call, length), in_words(their_call, their_length)
        if mine == others and call & VARIES:
            mine, others = self._counts(self.position), self._counts(other)
        return CollectiveMismatch(self.space.rank, mine, self.ranks[other], others)

    def _header(self, member: int) -> np.ndarray:
        return self._headers.reshape(self.size, -1)[member]

    def _counts(self, member: int) -> str:
        told = self._header(member)[HEADER_WORDS : HEADER_WORDS + 2 * self.size].tolist()
        return varying_in_words(told[: self.size], told[self.size :])

    def _missing(self) -> list[str]:
        """Those of whom nothing has come: the receives of headers come first in every schedule."""
        its = in_words(*self._last) if self._last else "nothing"
        num_looked_at = min(self.size - 1, int(self._words[RUN_NUM_REQUESTS]))
        waited_for = {
            int(self._members[index]) for index in range(num_looked_at) if self._requests[index] != 0
        }
        return [f"rank {self.ranks[member]}, whose last call here was {its}" for member in sorted(waited_for)]


class _Ready:
    """A schedule as compiled code takes it."""

    def __init__(self, made: Schedule):
        self._rows, self._sources = made.words()
        self.rows_address, self.sources_address = self._rows.ctypes.data, self._sources.ctypes.data
        self.num_rows, self.num_requests = len(made.rows), made.num_requests
        self.scratch_bytes = made.scratch_bytes
