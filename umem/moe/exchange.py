"""Tokens' rows to the homes of their experts, and back: stored and loaded in place, or as messages."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arguments import whole
from ..collectives.team import Team
from ..errors import (
    AddressError,
    ArgumentTypeError,
    CapacityExceeded,
    CollectiveMismatch,
    ConfigError,
    NotMappable,
    OutOfMemory,
    UnknownName,
)
from ..kernels.collective.listed import copy_listed
from ..kernels.data.copy import default_stream_bytes
from ..kernels.data.gather_sum import CPU_GATHER_SUM
from ..memory.waiting import one_at_a_time
from .arguments import choices_of, table_of, weights_of
from .blocks import Blocks
from .routing import Handle, counts_of, route

if TYPE_CHECKING:
    from ..space.space import Space

WAYS = ("auto", "load_store", "message")
SECTION_BYTES = 64  # alignment of what stands behind another in a block
ELEMENTS_OF_SUMS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

# What members tell each other before rows move: a number for the call, then values that must be the same for all.
PLAN, DISPATCH, COMBINE = 0, 1, 2
TOLD = (
    ("dispatch", ("num_experts", "expert_alignment", "max_rows")),
    ("dispatch", ("handle", "bytes a row", "bytes of scales", "bytes of a weight")),
    ("combine", ("handle", "bytes a row", "type", "bytes of a weight")),
)
TOLD_WORDS = 1 + max(len(names) for _, names in TOLD)


class Field(NamedTuple):
    """Rows that travel together with others; `row_of_pair` names each pair's."""

    rows: np.ndarray
    row_of_pair: np.ndarray


class Exchange:
    """Takes tokens' rows to the experts that they chose, and the experts' rows back.

    Collective to make, and so is every operation: all members of `team`, in the same order. Experts are spread over
    the members in equal, contiguous parts. A member takes at most `max_rows` rows in a `dispatch` (default: what its
    memory holds).

    `semantics` "auto" is "load_store" where the team's is. With "load_store" every member stores its rows where they
    belong at the expert's home, and loads the experts' rows from there; with "message" the same rows go by
    `Team.all_to_all_v`. The results have the same bits, and do not depend on how many members the tokens are spread
    over.

    Rows are NumPy arrays and arrays of the space; umem.torch.MoeExchange takes tensors. Arguments are checked before a
    member joins in. Raises what Team's operations raise.
    """

    def __init__(self, team: Team, max_rows: int | None = None, semantics: str = "auto"):
        if semantics not in WAYS:
            raise UnknownName("semantics", semantics, WAYS)
        on_gpus = sorted(set(team.ranks).intersection(team.space.segments.map.gpu_ranks))
        maps = not on_gpus and team.semantics == "load_store"
        if semantics == "load_store" and not maps:
            why = f"ranks {on_gpus} work on GPUs, whose memory" if on_gpus else "members have memory that"
            raise NotMappable(f'{why} no CPU of another stores rows to: pass semantics="message"')
        self.team, self.semantics = team, "load_store" if maps and semantics != "message" else "message"
        self.max_rows = None if max_rows is None else whole(max_rows, "max_rows", 0)
        self._space: Space = team.space
        self._blocks = Blocks(team.space)
        self._rooms: dict[str, np.ndarray] = defaultdict(lambda: np.empty(0, np.uint8))
        self._num_plans = 0
        self._stream_bytes = default_stream_bytes()
        self._lock = threading.Lock()

    def dispatch(
        self,
        x: Any,
        topk_idx: Any = None,
        topk_weights: Any = None,
        num_experts: int | None = None,
        expert_alignment: int = 1,
        handle: Handle | None = None,
    ) -> tuple[Any, np.ndarray, np.ndarray | None, list[int], Handle]:
        """Take each token's row to every expert that it chose.

        `x` [num_tokens, hidden] has elements of any type, or is a pair (x, scales) whose scales [num_tokens, any]
        travel along. `topk_idx` [num_tokens, num_topk] are integers: experts, of which a token may name one several
        times, each with a row of its own, or -1 for none. `topk_weights` are float32 of the same shape, or None.
        A member may have no tokens.

        Returns (recv_x or (recv_x, recv_scales), recv_topk_idx, recv_topk_weights, num_recv_tokens_per_expert,
        handle). There is a row for each pair of a token and an expert of this member: by expert, then by member and
        token that it is of. recv_topk_idx [rows] counts experts from this member's first; the numbers of
        num_recv_tokens_per_expert are multiples of `expert_alignment`, and rows that fill an expert up are zero, with
        expert -1 and weight 0. The rows lie in the space, and are the caller's until it drops them.

        With the `handle` of an earlier dispatch rows go the same way, and no choices are exchanged: `topk_idx` and
        `num_experts` are left out.

        Raises ConfigError, ArgumentTypeError; CapacityExceeded and OutOfMemory at all members.
        """
        is_pair = isinstance(x, tuple | list)
        if is_pair and len(x) != 2:
            raise ConfigError(f"x has {len(x)} parts: give x, or (x, scales)")
        parts = [
            table_of(part, what) for part, what in zip(x if is_pair else (x,), ("x", "scales"), strict=False)
        ]
        num_tokens = len(parts[0])
        if is_pair and len(parts[1]) != num_tokens:
            raise ConfigError(f"scales have {len(parts[1])} rows for the {num_tokens} tokens of x")
        if handle is None:
            chosen = choices_of(topk_idx, num_tokens, num_experts, self.team.size)
            alignment = whole(expert_alignment, "expert_alignment", 1)
            shape: tuple[int, ...] = chosen.shape
        else:
            if topk_idx is not None or num_experts is not None:
                raise ConfigError(
                    "the choices of a dispatch with a handle are the handle's: leave out topk_idx"
                )
            shape = (handle.num_tokens, handle.num_topk)
            if num_tokens != handle.num_tokens:
                raise ConfigError(f"x has {num_tokens} tokens, the handle is of {handle.num_tokens}")
        weights = None if topk_weights is None else weights_of(topk_weights, shape)
        with one_at_a_time(self._lock, self._space.timeout_s, "dispatch"):
            if handle is None:
                handle = self._plan(chosen, whole(num_experts, "num_experts"), alignment)
            fields = [Field(part, handle.tokens) for part in parts]
            if weights is not None:
                fields.append(Field(weights.reshape(-1, 1), handle.pairs))
            scale_bytes = _row_bytes(parts[1]) if is_pair else 0
            weight_bytes = 0 if weights is None else weights.itemsize
            told = [_row_bytes(parts[0]), scale_bytes, weight_bytes]
            move = self._store if self.semantics == "load_store" else self._send
            moved = move(handle, [handle.serial, *told], fields)
        received = (moved[0], moved[1]) if is_pair else moved[0]
        recv_weights = None if weights is None else moved[-1].reshape(-1)
        return received, handle.expert_of_row.copy(), recv_weights, list(handle.num_rows_per_expert), handle

    def combine(
        self, rows: Any, handle: Handle, topk_weights: Any = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Sum, for each token of the dispatch that `handle` is of, the rows of the experts that it chose.

        `rows` [rows, hidden] are float32, float16 or bfloat16 and stand as `dispatch` returned them, already
        multiplied by whatever weights they are to have; rows that fill an expert up are not read. They are added as
        float32, from zero, in the order of the token's choices, and rounded once. A token without experts is zero.
        Rows that lie in the space, such as those that `dispatch` returned, are loaded from where they are.

        Returns (x [num_tokens, hidden], weights): `topk_weights` [rows] float32, or None, come back as
        [num_tokens, num_topk], 0 where the choice was -1. Raises ConfigError, ArgumentTypeError; OutOfMemory at all
        members.
        """
        table = table_of(rows, "rows")
        num_rows = int(handle.num_rows[self.team.position])
        if table.dtype.name not in ELEMENTS_OF_SUMS:
            raise ArgumentTypeError(
                f"rows are {table.dtype}; those that can be summed are {', '.join(ELEMENTS_OF_SUMS)}"
            )
        if len(table) != num_rows:
            raise ConfigError(f"there are {len(table)} rows, and the handle is of {num_rows}")
        weights = None if topk_weights is None else weights_of(topk_weights, (num_rows,))
        kind = list(ELEMENTS_OF_SUMS).index(table.dtype.name)
        told = [handle.serial, table.shape[1] * table.itemsize, kind, 0 if weights is None else 4]
        sources = [table] if weights is None else [table, weights.reshape(-1, 1)]
        with one_at_a_time(self._lock, self._space.timeout_s, "combine"):
            is_mapped = self.semantics == "load_store"
            found = (self._lend if is_mapped else self._return)(handle, told, sources)
            total = _sum(table, handle, found[0][0])
            back = None if weights is None else self._weights_back(handle, found[1][0])
            if is_mapped:
                self.team.barrier()
        return total, back

    def close(self) -> None:
        """Give back the memory of rows that nobody holds. What is held stays valid until the space closes."""
        with one_at_a_time(self._lock, self._space.timeout_s, "close"):
            self._rooms.clear()
            self._blocks.free_idle()

    # --- before rows move

    def _plan(self, chosen: np.ndarray, num_experts: int, alignment: int) -> Handle:
        limit = -1 if self.max_rows is None else self.max_rows
        counts = self._agree(PLAN, [num_experts, alignment, limit], counts_of(chosen, num_experts))
        self._num_plans += 1
        handle = route(chosen, counts, alignment, self.team.position, self._num_plans)
        most = int(handle.num_rows.argmax())
        if self.max_rows is not None and handle.num_rows[most] > self.max_rows:
            raise CapacityExceeded(self.team.ranks[most], int(handle.num_rows[most]), self.max_rows)
        return handle

    def _agree(self, call: int, values: list[int], own: Any) -> np.ndarray:
        """All members' `own` numbers [member, number]. Raises CollectiveMismatch where calls or values differ."""
        mine = np.zeros(TOLD_WORDS + len(own), np.int64)
        mine[0], mine[1 : 1 + len(values)], mine[TOLD_WORDS:] = call, values, own
        everyone = np.empty((self.team.size, len(mine)), np.int64)
        self.team.all_gather(everyone, mine)
        told = everyone[:, :TOLD_WORDS]
        differ = np.flatnonzero((told != told[self.team.position]).any(axis=1))
        if len(differ):
            ranks, other = self.team.ranks, int(differ[0])
            called = [_in_words(told[member].tolist()) for member in (self.team.position, other)]
            raise CollectiveMismatch(self._space.rank, called[0], ranks[other], called[1])
        return everyone[:, TOLD_WORDS:]

    def _check_room(self, addresses: np.ndarray, errors: list[OutOfMemory], handle: Handle) -> None:
        """Raise OutOfMemory at all members where one has no memory for its rows: then an address of it is 0."""
        if errors:
            raise errors[0]
        without = np.flatnonzero((addresses == 0).any(axis=1))
        if len(without):
            member = int(without[0])
            raise OutOfMemory(
                f"rank {self.team.ranks[member]} has no memory for {handle.num_rows[member]} rows; give it a larger"
                " segment, or dispatch fewer tokens at a time"
            )

    def _take(self, num_bytes: int) -> tuple[int, np.ndarray, OutOfMemory | None]:
        try:
            return *self._blocks.take(num_bytes), None
        except OutOfMemory as error:
            return 0, np.empty(0, np.uint8), error

    def _shared(self, source: np.ndarray) -> tuple[int, np.ndarray, OutOfMemory | None]:
        """(address, what keeps it alive, error) of rows that all members can load: where they are, or a copy."""
        pointer, places = source.ctypes.data, self._space.segments.map
        try:
            homes = {places.place(start).rank for start, _ in places.pieces(pointer, max(source.nbytes, 1))}
        except AddressError:
            homes = {-1}
        if homes <= set(self.team.ranks):
            return pointer, source, None
        address, block, error = self._take(source.nbytes)
        if error is None:
            block[: source.nbytes] = source.reshape(-1).view(np.uint8)
        return address, block, error

    # --- how rows move

    def _store(self, handle: Handle, told: list[int], fields: list[Field]) -> list[np.ndarray]:
        """Store each pair's rows where they belong at the expert's home; this member's, once all have."""
        offsets = np.zeros((len(fields) + 1, self.team.size), np.int64)
        for number, field in enumerate(fields):
            num_bytes = handle.num_rows * _row_bytes(field.rows)
            offsets[number + 1] = offsets[number] - (-num_bytes // SECTION_BYTES * SECTION_BYTES)
        own = offsets[:, self.team.position]
        address, block, error = self._take(int(own[-1]))
        found = self._agree(DISPATCH, told, [address])
        self._check_room(found, [error] if error else [], handle)
        received = []
        for number, field in enumerate(fields):
            row_bytes = _row_bytes(field.rows)
            dsts = (found[:, 0] + offsets[number])[handle.homes] + handle.rows * row_bytes
            srcs = field.rows.ctypes.data + field.row_of_pair * row_bytes
            copy_listed(dsts.ctypes.data, srcs.ctypes.data, len(dsts), row_bytes, self._stream_bytes)
            num_rows = len(handle.expert_of_row)
            part = block[own[number] : own[number] + num_rows * row_bytes].view(field.rows.dtype)
            received.append(part.reshape(num_rows, field.rows.shape[1]))
            received[-1][handle.expert_of_row < 0] = 0
        self.team.barrier()
        return received

    def _send(self, handle: Handle, told: list[int], fields: list[Field]) -> list[np.ndarray]:
        """`_store` by messages."""
        self._agree(DISPATCH, told, [])
        received = []
        for field in fields:
            rows = self._room("out", len(handle.by_home), field.rows)
            np.take(field.rows, field.row_of_pair[handle.by_home], axis=0, out=rows, mode="clip")
            came = self._room("in", len(handle.arrivals), field.rows)
            self._all_to_all(came, rows, handle.num_taken, handle.num_sent)
            received.append(self._rows_to_keep(len(handle.expert_of_row), field.rows))
            received[-1][handle.arrivals] = came
            received[-1][handle.expert_of_row < 0] = 0
        return received

    def _room(self, use: str, num_rows: int, like: np.ndarray) -> np.ndarray:
        """Rows of this call alone, in memory that is kept: pages of fresh memory take longer than the messages."""
        num_bytes = num_rows * _row_bytes(like)
        if len(self._rooms[use]) < num_bytes:
            self._rooms[use] = np.empty(num_bytes + num_bytes // 4, np.uint8)
        return self._rooms[use][:num_bytes].view(like.dtype).reshape(num_rows, like.shape[1])

    def _rows_to_keep(self, num_rows: int, like: np.ndarray) -> np.ndarray:
        """Rows for the caller, in the space's memory where there is room, which is used again once dropped."""
        num_bytes = num_rows * _row_bytes(like)
        is_mapped = num_bytes > 0 and self._space.segments.gpu is None
        _, block, error = self._take(num_bytes) if is_mapped else (0, np.empty(0, np.uint8), None)
        if error is not None or not is_mapped:
            return np.empty((num_rows, like.shape[1]), like.dtype)
        return block[:num_bytes].view(like.dtype).reshape(num_rows, like.shape[1])

    def _lend(
        self, handle: Handle, told: list[int], sources: list[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(each pair's address, what keeps this member's alive) of rows of the experts, where all members load them."""
        held = [self._shared(source) for source in sources]
        found = self._agree(COMBINE, told, [address for address, _, _ in held])
        self._check_room(found, [error for _, _, error in held if error], handle)
        return [
            (found[handle.homes, number] + handle.rows * _row_bytes(source), held[number][1])
            for number, source in enumerate(sources)
        ]

    def _return(
        self, handle: Handle, told: list[int], sources: list[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`_lend` by messages: the rows are sent back to their tokens' members."""
        self._agree(COMBINE, told, [])
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for source in sources:
            rows = self._room("out", len(handle.arrivals), source)
            np.take(source, handle.arrivals, axis=0, out=rows, mode="clip")
            came = self._room(f"back {len(found)}", len(handle.pairs), source)
            self._all_to_all(came, rows, handle.num_sent, handle.num_taken)
            addresses = np.empty(len(handle.pairs), np.int64)
            addresses[handle.by_home] = came.ctypes.data + np.arange(len(came)) * _row_bytes(came)
            found.append((addresses, came))
        return found

    def _all_to_all(self, dst: np.ndarray, src: np.ndarray, dst_rows: list[int], src_rows: list[int]) -> None:
        row_bytes = _row_bytes(src)
        self.team.all_to_all_v(
            dst.view(np.uint8),
            src.view(np.uint8),
            [num * row_bytes for num in dst_rows],
            [num * row_bytes for num in src_rows],
        )

    def _weights_back(self, handle: Handle, addresses: np.ndarray) -> np.ndarray:
        weights = np.zeros((handle.num_tokens, handle.num_topk), np.float32)
        dsts = weights.ctypes.data + handle.pairs * 4
        copy_listed(dsts.ctypes.data, addresses.ctypes.data, len(dsts), 4, self._stream_bytes)
        return weights


def _sum(table: np.ndarray, handle: Handle, addresses: np.ndarray) -> np.ndarray:
    """Each token's sum of the rows at its pairs' addresses."""
    total = np.empty((handle.num_tokens, table.shape[1]), np.float32)
    # Addresses are indices of rows of one byte in a table that begins at 0.
    CPU_GATHER_SUM[ELEMENTS_OF_SUMS[table.dtype.name]](
        total.ctypes.data,
        0,
        addresses.ctypes.data,
        handle.first_pairs.ctypes.data,
        handle.num_tokens,
        table.shape[1],
        1,
    )
    return total.astype(table.dtype, copy=False)


def _row_bytes(table: np.ndarray) -> int:
    return int(table.shape[1]) * table.itemsize


def _in_words(told: list[int]) -> str:
    """What a member called, from what it told the others."""
    name, names = TOLD[told[0]]
    return f"{name}({', '.join(f'{what}={value}' for what, value in zip(names, told[1:], strict=False))})"
