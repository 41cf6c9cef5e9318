"""`near` semantics, asked from Python: ship look-ups and sums to the homes of the data.

Work is cut into requests that fit a message, and several are in flight at once, to all homes that hold a
part. A table or block may lie at one home or be striped over many; a row must lie at one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...arguments import whole
from ...errors import AddressError, AlignmentError, ArgumentTypeError, ConfigError, UnknownName
from ...memory.address import AddressMap
from .. import layout
from ..layout import Operation
from ..serving.near_handlers import REDUCE_TYPE_BYTES, REDUCE_TYPES, ROW_TYPES
from .client import Client
from .messages import Request

MAX_INDICES = 8192  # of one request: 64 KiB, so that a long look-up overlaps transport and gathering
WORD = layout.WORD
# Dtypes of a block by element type: what is added as it stands. Halves may come as the words of their bits.
_BLOCK_DTYPES = {
    "f32": ("float32",),
    "f64": ("float64",),
    "i32": ("int32", "uint32"),
    "i64": ("int64", "uint64"),
    "f16": ("float16", "uint16", "int16"),
    "bf16": ("bfloat16", "uint16", "int16"),
}


class Near:
    """Operations at the home of the data. `plan` says where an address lives.

    Any thread may ask. All raise AddressError for an index outside the table, for a row
    that lies at two homes and for memory outside the segments, RankLost for a home that died, WaitTimeout,
    UnknownOperation for a type that a home does not serve (Agent.serve_other_types).
    """

    def __init__(self, client: Client, plan: AddressMap):
        self.client, self.plan = client, plan

    def gather(self, dst: np.ndarray, table: int, num_rows: int, indices: np.ndarray) -> None:
        """Row i of `dst` becomes row indices[i] of the table of `num_rows` rows at address `table`.

        `dst` is C-contiguous, (num_indices, ...) in the table's dtype; `indices` int64, contiguous.
        """
        table, num_rows = whole(table, "table"), whole(num_rows, "num_rows", 0)
        row_bytes = dst.nbytes // max(len(dst), 1)
        _check_arrays(dst, indices, len(indices))
        if not row_bytes:
            return
        homes = self._homes(table, num_rows, row_bytes, indices)
        step = max(1, min(MAX_INDICES, layout.MAX_PAYLOAD_BYTES // row_bytes))
        scattered: list[tuple[np.ndarray, np.ndarray]] = []

        def asked() -> Iterator[Request]:
            for home, places in homes:
                for first in range(0, len(indices) if places is None else len(places), step):
                    if places is None:  # one home: rows land where they belong
                        chunk, room = indices[first : first + step], dst[first : first + step]
                    else:
                        mine = places[first : first + step]
                        chunk, room = indices[mine], np.empty((len(mine), *dst.shape[1:]), dst.dtype)
                        scattered.append((mine, room))
                    yield _request(home, Operation.GATHER, (table, num_rows, row_bytes), chunk, room)

        self.client.ask_all(asked())
        for places, rows in scattered:
            dst[places] = rows

    def gather_sum(
        self,
        dst: np.ndarray,
        table: int,
        num_rows: int,
        row_bytes: int,
        offsets: np.ndarray,
        indices: np.ndarray,
        row_type: str = "f32",
    ) -> None:
        """Row b of `dst` (float32, C-contiguous) = sum of the rows indices[offsets[b] : offsets[b + 1]].

        Rows start `row_bytes` apart; their first dst.shape[1] elements of `row_type` (f32, f16, bf16)
        count. `offsets` are num_bags + 1 ascending int64 from 0. Rows of one home are added in order as
        float32, up to MAX_INDICES a part; parts and homes are added after.
        """
        if row_type not in ROW_TYPES:
            raise UnknownName("row type", row_type, ROW_TYPES)
        table, num_rows = whole(table, "table"), whole(num_rows, "num_rows", 0)
        row_bytes = whole(row_bytes, "row_bytes", 0)
        if dst.dtype != np.float32:
            raise ArgumentTypeError(f"sums of {dst.dtype}: they are float32")
        num_bags, num_columns = dst.shape
        _check_arrays(dst, indices, num_bags)
        if (
            offsets.dtype != np.int64
            or len(offsets) != num_bags + 1
            or offsets[0] != 0
            or offsets[-1] != len(indices)
        ):
            raise ConfigError(
                f"{len(offsets)} offsets ({offsets.dtype}) from {offsets[0]} to {offsets[-1]} do not cut"
                f" {len(indices)} indices into {num_bags} bags"
            )
        operation = Operation.GATHER_SUM if row_type == "f32" else Operation.GATHER_SUM_HALF
        if num_columns * (4 if row_type == "f32" else 2) > row_bytes:
            raise ConfigError(f"{num_columns} columns of {row_type} are more than a row of {row_bytes} bytes")
        homes = self._homes(table, num_rows, row_bytes, indices)
        fixed = (table, num_rows, row_bytes, num_columns, ROW_TYPES.index(row_type))
        is_one = len(indices) + num_bags < MAX_INDICES and dst.nbytes <= layout.MAX_PAYLOAD_BYTES
        if is_one and num_bags and len(homes) == 1 and homes[0][1] is None:
            only = _request(
                homes[0][0], operation, (*fixed, num_bags), np.concatenate([offsets, indices]), dst
            )
            self.client.ask(only)
            return
        bag_of = np.repeat(np.arange(num_bags), np.diff(offsets))
        max_bags = max(1, layout.MAX_PAYLOAD_BYTES // max(4 * num_columns, 1))
        parts: list[tuple[np.ndarray, np.ndarray]] = []

        def asked() -> Iterator[Request]:
            for home, places in homes:
                mine = indices if places is None else indices[places]
                bags = bag_of if places is None else bag_of[places]
                for first in range(0, len(mine), MAX_INDICES):
                    chunk = slice(first, first + MAX_INDICES)
                    yield from part(home, mine[chunk], bags[chunk])

        def part(home: int, chosen: np.ndarray, bags: np.ndarray) -> Iterator[Request]:
            names, starts = np.unique(bags, return_index=True)
            ends = np.append(starts[1:], len(chosen))
            for first in range(0, len(names), max_bags):
                some = slice(first, first + max_bags)
                begin, end = starts[some][0], ends[some][-1]
                cuts = np.append(starts[some], end) - begin
                sums = np.empty((len(cuts) - 1, num_columns), np.float32)
                parts.append((names[some], sums))
                words = np.concatenate([cuts, chosen[begin:end]]).astype(np.int64)
                yield _request(home, operation, (*fixed, len(cuts) - 1), words, sums)

        self.client.ask_all(asked())
        dst[:] = 0
        for names, sums in parts:
            dst[names] += sums

    def reduce(self, dst: int, block: np.ndarray, element_type: str) -> None:
        """Add `block` to the memory at address `dst`, element by element; complete on return.

        `element_type` is one of REDUCE_TYPES, and that of `block`; halves may come as the words of their bits.
        Blocks of several ranks add up; a plain store to the same memory in the meantime may be lost.
        """
        if element_type not in REDUCE_TYPES:
            raise UnknownName("element type", element_type, REDUCE_TYPES)
        code = REDUCE_TYPES.index(element_type)
        if block.dtype.name not in _BLOCK_DTYPES[element_type] or not block.dtype.isnative:
            raise ArgumentTypeError(
                f"a block of {block.dtype} is none of {element_type}; convert it by astype, or name its own type"
            )
        dst = whole(dst, "dst")
        operation = Operation.REDUCE if code == 0 else Operation.REDUCE_OTHER
        element_bytes = REDUCE_TYPE_BYTES[code]
        flat = _check_arrays(block, None, len(block)).reshape(-1).view(np.uint8)
        if dst % element_bytes or flat.nbytes % element_bytes:
            raise AlignmentError(dst, element_bytes, f"a block of {element_type} needs whole ones")
        step = MAX_INDICES * WORD

        def asked() -> Iterator[Request]:
            for start, num_bytes in self.plan.pieces(dst, flat.nbytes):
                home = self.plan.home(start)
                for first in range(start, start + num_bytes, step):
                    part = flat[first - dst : min(first + step, start + num_bytes) - dst]
                    yield _request(home, operation, (first, part.nbytes // element_bytes, code), part)

        self.client.ask_all(asked())

    def _homes(
        self, table: int, num_rows: int, row_bytes: int, indices: np.ndarray
    ) -> list[tuple[int, np.ndarray | None]]:
        """(home, positions in `indices` of the rows that live there); None for all of them."""
        if indices.size and not (indices.min() >= 0 and indices.max() < num_rows):
            bad = indices[(indices < 0) | (indices >= num_rows)][0]
            raise AddressError(f"index {bad} names no row of a table of {num_rows} rows")
        plan = self.plan
        home = plan.home(table)
        if plan.contiguous_bytes(table) >= num_rows * row_bytes:
            return [(home, None)]
        plan.home(table + num_rows * row_bytes - 1)
        first = table - plan.striped_base + indices * row_bytes
        if table < plan.striped_base or ((first ^ (first + row_bytes - 1)) // plan.block_bytes).any():
            raise AddressError(
                f"rows of {row_bytes} bytes at {table:#x} cross from one home to another;"
                f" use rows that divide the block of {plan.block_bytes} bytes, on an aligned table"
            )
        column = first // plan.block_bytes % len(plan.members)
        return [(plan.members[c], np.flatnonzero(column == c)) for c in np.unique(column).tolist()]


def _request(
    home: int,
    operation: Operation,
    arguments: tuple[int, ...],
    sent: np.ndarray,
    room: np.ndarray | None = None,
) -> Request:
    """A request that sends the bytes of `sent` and has its reply's put into `room`."""
    where = (0, 0) if room is None else (room.ctypes.data, room.nbytes)
    return Request(home, operation, arguments, sent.ctypes.data, sent.nbytes, *where, keep=(sent, room))


def _check_arrays(block: np.ndarray, indices: np.ndarray | None, num_rows: int) -> np.ndarray:
    if block.dtype.hasobject:
        raise ArgumentTypeError(
            f"an array of {block.dtype} holds Python objects, which have no bytes of their own"
        )
    if not block.flags.c_contiguous or len(block) != num_rows:
        raise ConfigError(f"an array of shape {block.shape} is not {num_rows} rows, C-contiguous")
    if indices is not None and (indices.dtype != np.int64 or not indices.flags.c_contiguous):
        raise ConfigError(f"indices of {indices.dtype} must be contiguous int64; use numpy.ascontiguousarray")
    return block
