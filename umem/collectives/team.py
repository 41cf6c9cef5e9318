"""Teams: ranks that call collective operations together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ..arguments import rank_of, whole
from ..errors import ArgumentTypeError, ConfigError, WaitTimeout
from ..kernels.collective import layout
from ..kernels.collective.layout import call_word
from ..memory.waiting import one_at_a_time
from .buffers import ELEMENT_NAMES, Buffer, reduction_of, type_of
from .choice import make_member
from .mapped import MappedTeam

if TYPE_CHECKING:
    from ..space.space import Space


TEAM_LEAVE_S = 5.0  # for a call of another thread to see that the team has ended; it looks every 50 ms

_NUM_MADE: WeakKeyDictionary[Space, Counter[str]] = WeakKeyDictionary()


class Team:
    """Ranks that move and reduce data together.

    Collective to make: every member, with the same `ranks` (default: all) and `name`; teams of the same ranks and name
    in the same order. Every operation is called by all members, in the same order; each returns when this member's
    buffers are filled and its inputs may be changed. Threads of a rank take turns on a team; teams do not wait for each
    other. `root` is a position in the team.

    Buffers are NumPy arrays, torch tensors, and arrays of the space, which move without a staging copy where all
    members' are. Inputs and outputs must not overlap, other than in place. On a rank with a GPU also what has
    `__cuda_array_interface__`: an operation begins behind what its buffers' streams hold (docs/collectives.md).

    An element's result depends on the inputs in the members' order alone: not on the length, the alignment, the way
    that was taken, or the rank; kernels/data/reduce.py says how it is rounded.

    Raises CollectiveMismatch where members called different things (the team goes on), RankLost for a dead member,
    WaitTimeout (both end the team), NotMappable where members do not reach each other's memory.
    """

    def __init__(
        self,
        space: Space,
        ranks: Sequence[int] | None = None,
        name: str = "",
        timeout_s: float | None = None,
        semantics: str = "auto",
    ):
        members = (
            range(space.num_ranks) if ranks is None else [rank_of(rank, space.num_ranks) for rank in ranks]
        )
        if len(set(members)) != len(members) or space.rank not in members:
            raise ConfigError(
                f"ranks {list(members)} of a team: each once, and this rank, {space.rank}, among them"
            )
        self.space, self.ranks, self.size = space, tuple(members), len(members)
        self.position = self.ranks.index(space.rank)
        self._timeout_s = space.timeout_s if timeout_s is None else timeout_s
        made = _NUM_MADE.setdefault(space, Counter())
        label = f"{name}/{','.join(map(str, self.ranks))}"
        made[label] += 1
        key, number = f"team/{label}/{made[label]}", sum(made.values())
        self._part, self._buffer = make_member(space, self.ranks, key, self._timeout_s, semantics, number)
        self.semantics = self._part.semantics
        self._lock = threading.Lock()
        self._has_left = False
        space.end_with(self)

    @property
    def address(self) -> int:
        """Address of this member's words, for compiled code that calls kernels/collective/run.py itself."""
        return self._part.address

    # --- operations

    def barrier(self) -> None:
        """Return when every member has called it; what they stored before is seen after."""
        self._run(layout.BARRIER, "barrier", layout.BARRIER, 0, 0, 0)

    def all_reduce(self, dst: Any, src: Any = None, op: str = "sum") -> None:
        """Combine all members' `src`, element by element, into every `dst`; without `src` in place.

        `op` is sum, prod, min, max or avg.
        """
        source = into = self._buffer(dst, "dst", is_written=True)
        if src is not None:
            source = self._buffer(src, "src")
            _same_length("all_reduce", into, source)
            _check_apart("all_reduce", into, source, 0)
        self._reduce(layout.ALL_REDUCE, "all_reduce", into, source, op)

    def prepare_all_reduce(self, op: str, dtype: Any) -> Callable[[int, int], None] | None:
        """`all_reduce` in place for callers that count tenths of microseconds; None where there is no such way.

        It takes the pointer to elements in one piece, and their number.
        """
        if type(self._part) is not MappedTeam:
            return None
        type_index, item_bytes = type_of(dtype)
        operation, element = reduction_of(op, type_index)
        word = call_word(layout.ALL_REDUCE, operation, type_index, 0)
        combining = self._part.combining(operation, element)
        run, lock, flags = self._part.run, self._lock, layout.ALL_REDUCE

        def all_reduce(pointer: int, num_elements: int) -> None:
            num_bytes = num_elements * item_bytes
            if not lock.acquire(False):
                self._run(flags, "all_reduce", word, pointer, pointer, num_bytes, 0, combining, item_bytes)
                return
            try:
                run(flags, word, pointer, pointer, num_bytes, 0, combining, item_bytes)
            finally:
                lock.release()

        return all_reduce

    def reduce(self, dst: Any, src: Any, op: str = "sum", root: int = 0) -> None:
        """Combine all members' `src` into the root's `dst`, which the others may leave None."""
        root = self._position(root)
        source = self._buffer(src, "src")
        into = source
        if self.position == root:
            into = self._buffer(dst, "dst", is_written=True)
            _same_length("reduce", into, source)
            _check_apart("reduce", into, source, 0)
        self._reduce(layout.REDUCE_TO_ROOT, "reduce", into, source, op, root)

    def reduce_scatter(self, dst: Any, src: Any, op: str = "sum") -> None:
        """Combine block i of all members' `src` into the `dst` of member i; `src` has a block for each."""
        into, source = self._buffer(dst, "dst", is_written=True), self._buffer(src, "src")
        self._expect_blocks("reduce_scatter", "src", source, "dst", into)
        _check_apart("reduce_scatter", into, source, -self.position * into.num_bytes)
        self._reduce(layout.REDUCE_SCATTER, "reduce_scatter", into, source, op)

    def all_gather(self, dst: Any, src: Any) -> None:
        """Put every member's `src` into every `dst`, by position."""
        into, source = self._buffer(dst, "dst", is_written=True), self._buffer(src, "src")
        self._expect_blocks("all_gather", "dst", into, "src", source)
        _check_apart("all_gather", into, source, self.position * source.num_bytes)
        self._move(layout.ALL_GATHER, "all_gather", into, source, source.num_bytes)

    def gather(self, dst: Any, src: Any, root: int = 0) -> None:
        """Put every member's `src` into the root's `dst`, by position; the others may leave it None."""
        root = self._position(root)
        source = self._buffer(src, "src")
        into = source
        if self.position == root:
            into = self._buffer(dst, "dst", is_written=True)
            self._expect_blocks("gather", "dst", into, "src", source)
            _check_apart("gather", into, source, self.position * source.num_bytes)
        self._move(layout.GATHER, "gather", into, source, source.num_bytes, root)

    def broadcast(self, buffer: Any, root: int = 0) -> None:
        """Fill every member's `buffer` with the root's."""
        root = self._position(root)
        held = self._buffer(buffer, "buffer", is_written=self.position != root)
        self._move(layout.BROADCAST, "broadcast", held, held, held.num_bytes, root)

    def scatter(self, dst: Any, src: Any, root: int = 0) -> None:
        """Put block i of the root's `src` into the `dst` of member i; the others may leave `src` None."""
        root = self._position(root)
        into = self._buffer(dst, "dst", is_written=True)
        source = into
        if self.position == root:
            source = self._buffer(src, "src")
            self._expect_blocks("scatter", "src", source, "dst", into)
            _check_apart("scatter", into, source, -self.position * into.num_bytes)
        self._move(layout.SCATTER, "scatter", into, source, into.num_bytes, root)

    def all_to_all(self, dst: Any, src: Any) -> None:
        """Put block i of this member's `src` into member i's `dst`, as its block of this member's position."""
        into, source = self._buffer(dst, "dst", is_written=True), self._buffer(src, "src")
        _same_length("all_to_all", into, source)
        if source.num_elements % self.size:
            raise ConfigError(
                f"all_to_all: {source.num_elements} elements are no blocks for {self.size} members"
            )
        _check_apart("all_to_all", into, source, None)
        self._move(layout.ALL_TO_ALL, "all_to_all", into, source, source.num_bytes // self.size)

    def all_to_all_v(self, dst: Any, src: Any, dst_counts: Sequence[int], src_counts: Sequence[int]) -> None:
        """`all_to_all` with blocks of any length: elements for, and from, each member. The blocks stand one after the
        other."""
        into, source = self._buffer(dst, "dst", is_written=True), self._buffer(src, "src")
        _same_type("all_to_all_v", into, source)
        _check_apart("all_to_all_v", into, source, None)
        sent = self._counts("src_counts", src_counts, source)
        taken = self._counts("dst_counts", dst_counts, into)
        rows = np.zeros((self.size, layout.TABLE_ROW_WORDS), np.int64)
        rows[:, layout.TABLE_SEND], rows[:, layout.TABLE_SEND_AT] = sent, np.cumsum(sent) - sent
        rows[:, layout.TABLE_TAKE], rows[:, layout.TABLE_PUT_AT] = taken, np.cumsum(taken) - taken
        self._move(layout.ALL_TO_ALL_V, "all_to_all_v", into, source, 0, rows=rows)

    def close(self) -> None:
        """Give back the team's memory. Collective."""
        with one_at_a_time(self._lock, self._timeout_s, "close"):
            self._part.close()

    def leave(self) -> None:
        """End this member's part without waiting for the others, whose calls then find it missing.

        For members that do not know whether all live. The memory goes back with a later team, or with the space.
        """
        self.end()
        with suppress(WaitTimeout), one_at_a_time(self._lock, TEAM_LEAVE_S, "leave"):
            if not self._has_left:
                self._has_left = True
                self._part.leave()

    def end(self) -> None:
        """Have every call of this member raise WorldError, one of another thread that waits too."""
        self._part.end()

    def set_timeout(self, timeout_s: float) -> None:
        """Bound every later wait."""
        self._timeout_s = self._part.timeout_s = timeout_s

    # --- checks

    def _position(self, root: Any) -> int:
        position = whole(root, "root")
        if not 0 <= position < self.size:
            raise ConfigError(f"root={position} is no position in a team of {self.size}")
        return position

    def _expect_blocks(self, call: str, many: str, blocks: Buffer, one: str, block: Buffer) -> None:
        _same_type(call, blocks, block)
        if blocks.num_elements != self.size * block.num_elements:
            raise ConfigError(
                f"{call}: {many} has {blocks.num_elements} elements, which is not {self.size} times the"
                f" {block.num_elements} of {one}"
            )

    def _counts(self, what: str, counts: Sequence[int], buffer: Buffer) -> np.ndarray:
        numbers = [whole(count, what, 0) for count in counts]
        if len(numbers) != self.size:
            raise ConfigError(f"{what} has {len(numbers)} numbers for {self.size} members")
        if sum(numbers) > buffer.num_elements:
            raise ConfigError(
                f"{what} {numbers} reach beyond the {buffer.num_elements} elements of the buffer"
            )
        return np.array(numbers, np.int64) * buffer.item_bytes

    # --- how

    def _reduce(self, flags: int, call: str, dst: Buffer, src: Buffer, op: str, root: int = 0) -> None:
        operation, element = reduction_of(op, src.type_index)
        word = call_word(flags, operation, src.type_index, root)
        combining = self._part.combining(operation, element)
        if dst.stream or src.stream:
            self._part.follow(dst.stream, src.stream)
        self._run(
            flags,
            call,
            word,
            src.pointer,
            dst.pointer,
            dst.num_bytes,
            root,
            combining,
            src.item_bytes,
            held=(dst, src),
        )
        dst.settle()

    def _move(
        self,
        flags: int,
        call: str,
        dst: Buffer,
        src: Buffer,
        length: int,
        root: int = 0,
        rows: np.ndarray | None = None,
    ) -> None:
        word = call_word(flags, 0, src.type_index, root)
        table = 0 if rows is None else rows.ctypes.data
        if dst.stream or src.stream:
            self._part.follow(dst.stream, src.stream)
        self._run(flags, call, word, src.pointer, dst.pointer, length, root, 0, 1, table, held=(dst, src))
        dst.settle()

    def _run(self, flags: int, call: str, word: int, *arguments: Any, held: Any = None) -> None:
        if not self._lock.acquire(blocking=False):
            with one_at_a_time(self._lock, self._timeout_s, call):
                self._part.held = held
                self._part.run(flags, word, *arguments)
            return
        try:
            self._part.held = held
            self._part.run(flags, word, *arguments)
        finally:
            self._lock.release()


def _same_type(call: str, dst: Buffer, src: Buffer) -> None:
    if (dst.type_index, dst.item_bytes) != (src.type_index, src.item_bytes):
        names = [f"{ELEMENT_NAMES[b.type_index]} of {b.item_bytes} bytes" for b in (dst, src)]
        raise ArgumentTypeError(f"{call}: the elements of one buffer are {names[0]}, of the other {names[1]}")


def _same_length(call: str, dst: Buffer, src: Buffer) -> None:
    _same_type(call, dst, src)
    if dst.num_elements != src.num_elements:
        raise ConfigError(f"{call}: dst has {dst.num_elements} elements, src {src.num_elements}")


def _check_apart(call: str, dst: Buffer, src: Buffer, in_place: int | None) -> None:
    """Raise ConfigError where the buffers overlap, unless `src` stands `in_place` bytes into `dst`."""
    apart = dst.pointer + dst.num_bytes <= src.pointer or src.pointer + src.num_bytes <= dst.pointer
    if apart or (in_place is not None and src.pointer - dst.pointer == in_place):
        return
    raise ConfigError(
        f"{call}: dst and src overlap; only in place may they, where a member's blocks stand alike"
    )
