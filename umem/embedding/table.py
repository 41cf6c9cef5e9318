"""A table of rows spread over the members of a team: its memory, and what any member reads and writes of it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from ..collectives.team import Team
from ..errors import AddressError, ConfigError, NotMappable, OutOfMemory, UnknownName
from ..kernels.embedding.bags import CPU_POOL
from ..kernels.embedding.places import NOTHING_BAD, cpu_copy_rows, cpu_place_rows, cpu_store_rows
from ..kernels.embedding.update import OPTIMIZER_STEPS, state_bytes_of
from .bags import Bags, bags_of, ids_of
from .layout import BY_ROWS, Shard, plan_layout
from .quantised import quantise, restored

if TYPE_CHECKING:
    from ..space.space import Space

ALIGNMENT = 64
WAYS_OF_LOOKUP = ("auto", "load_store", "near")


class EmbeddingTable:
    """`num_rows` rows of `num_columns` elements, float32, float16, bfloat16 or int8, in the memory of a team's members.

    Collective to make, and to `close`. `placement` "rows" deals the rows out to the members in turn, "columns" gives
    each a part of every row, a number is the position of the one that has all. With an `optimizer` ("sgd", "adagrad":
    one float32 a row, or a part of one; "adam") the state of a row lies at its home. Rows and states begin as zeros.
    Rows of int8 are float32 by 256 levels from a row's least element to its greatest; they are not trained.

    Any member looks rows up and writes them, alone and at any time: by loads and stores where all members map each
    other's memory, else by requests to their homes (`semantics`: "auto", "load_store", "near"). What one member writes
    another sees after a barrier or a message; a row that is written meanwhile may be read half old, half new.

    Raises OutOfMemory at all members, which says what is free where; NotMappable for members that work on GPUs.
    """

    def __init__(
        self,
        team: Team,
        num_rows: int,
        num_columns: int,
        dtype: Any = "float32",
        placement: Any = BY_ROWS,
        optimizer: str | None = None,
        semantics: str = "auto",
    ):
        if optimizer is not None and optimizer not in OPTIMIZER_STEPS:
            raise UnknownName("optimizer", optimizer, tuple(OPTIMIZER_STEPS))
        if semantics not in WAYS_OF_LOOKUP:
            raise UnknownName("semantics", semantics, WAYS_OF_LOOKUP)
        self.team, self.optimizer = team, optimizer
        self._space: Space = team.space
        self.layout = plan_layout(num_rows, num_columns, dtype, placement, team.size)
        self.num_rows, self.num_columns = num_rows, num_columns
        # Of rows that are looked up.
        self.dtype = np.dtype(np.float32) if self.layout.is_quantised else self.layout.kind
        if self.layout.is_quantised and optimizer is not None:
            raise ConfigError("rows of int8 are looked up and not trained: optimizer=None")
        on_gpus = sorted(set(team.ranks).intersection(self._space.segments.map.gpu_ranks))
        if on_gpus:
            raise NotMappable(
                f"ranks {on_gpus} work on GPUs, and tables lie in memory of CPUs: make a team of the others"
            )
        maps = team.semantics == "load_store"
        if semantics == "load_store" and not maps:
            raise NotMappable("members do not map each other's memory: use semantics='auto' or 'near'")
        self.semantics = "load_store" if maps and semantics != "near" else "near"
        self.num_steps = 0
        if self.semantics == "near" and self.layout.row_type in ("f16", "bf16"):
            self._space.agent.serve_other_types()  # before any member can ask
        self._parts: list[TablePart] = []
        for shard in self.layout.shards:
            self._parts.append(self._make_part(shard))

    def _make_part(self, shard: Shard) -> TablePart:
        row_bytes = self.layout.row_bytes(shard)
        state_bytes = 0 if self.optimizer is None else state_bytes_of(self.optimizer, shard.num_columns)
        num_rows = shard.rows_at(self.team.position, self.num_rows)
        taken: list[int] = []
        why = ""
        try:
            for each in (row_bytes, state_bytes) if num_rows else ():
                address = self._space.alloc(max(num_rows * each, 1), align=ALIGNMENT)
                taken.append(address)
        except OutOfMemory as error:
            why = f": {error}"
        told = np.zeros(
            (self.team.size, 3), np.int64
        )  # addresses of rows and of states, and whether there is no room
        mine = np.zeros(3, np.int64)
        mine[: len(taken)], mine[2] = taken, bool(why)
        self.team.all_gather(told, mine)
        if told[:, 2].any():
            for address in taken:
                self._space.free(address)
            self._free_parts()
            short = [self.team.ranks[position] for position in np.flatnonzero(told[:, 2])]
            raise OutOfMemory(
                f"ranks {short} have no memory for their part of {self.num_rows} rows of {row_bytes} bytes{why}"
            )
        part = TablePart(shard, row_bytes, state_bytes, num_rows, told[list(shard.homes)])
        for address, each in zip(taken, (row_bytes, state_bytes), strict=False):
            ctypes.memset(address, 0, num_rows * each)
        self.team.barrier()
        return part

    # --- look-ups

    def lookup(self, ids: Any) -> np.ndarray:
        """The rows that `ids` (int64, any shape) name: an array of that shape and a last dimension of columns.

        Raises AddressError for the first id that names no row.
        """
        wanted = ids_of(ids)
        out = np.empty((*wanted.shape, self.num_columns), self.dtype)
        self._fetch(out.reshape(-1, self.num_columns), wanted.reshape(-1))
        return out

    def pool(
        self,
        ids: Any,
        offsets: Any = None,
        mode: str = "sum",
        weights: Any = None,
        padding_index: int | None = None,
        includes_last: bool = False,
    ) -> np.ndarray:
        """Row b is the sum, the mean or the maximum of the rows of bag b, as float32; zeros for an empty bag.

        Bags are the rows of a matrix of ids, or of a vector from each offset to the next. A sum takes a weight for each
        id. Where rows are asked for at their homes, a sum is that of the homes' sums. Raises ConfigError for offsets
        and weights that make no sense, AddressError for the first id that names no row.
        """
        bags = bags_of(ids, offsets, weights, padding_index, mode, includes_last)
        return self.pool_bags(bags, mode)

    def pool_bags(self, bags: Bags, mode: str) -> np.ndarray:
        """`pool`, of bags that have been checked."""
        if mode == "mean":
            bags, mode = bags.averaging(), "sum"
        out = np.empty((bags.num_bags, self.num_columns), np.float32)
        if self.semantics == "load_store":
            for part in self._parts:
                self._pool_addresses(out, part, self._places(part, bags.ids), bags, mode)
        elif mode == "sum" and bags.weights is None and not self.layout.is_quantised:
            self.check_ids(bags.ids)
            for part in self._parts:
                self._pool_near(out, part, bags)
        else:
            fetched = np.empty((len(bags.ids), self.num_columns), self.dtype)
            self._fetch(fetched, bags.ids)
            addresses = fetched.ctypes.data + np.arange(len(bags.ids)) * fetched.strides[0]
            for part in self._parts:
                at = part.shard.begin * self.dtype.itemsize
                self._pool_addresses(out, part, addresses + at, bags, mode, are_fetched=True)
        return out

    def update_rows(self, ids: Any, rows: Any) -> None:
        """Replace the rows that `ids` name, each once; their optimizer state stays."""
        wanted = ids_of(ids).reshape(-1)
        given = np.ascontiguousarray(rows, self.dtype).reshape(-1, self.num_columns)
        if len(given) != len(wanted):
            raise ConfigError(f"{len(given)} rows for {len(wanted)} ids")
        if len(np.unique(wanted)) != len(wanted):
            raise ConfigError("an id is named twice: which of its rows is meant?")
        self.check_ids(wanted)
        for part in self._parts:
            columns = self.stored(part, given)
            places = self._places(part, wanted)
            if self.semantics == "load_store":
                cpu_store_rows.compiled(
                    places.ctypes.data, columns.ctypes.data, columns.strides[0], len(places), part.row_bytes
                )
            else:
                for place, row in zip(places.tolist(), columns, strict=True):
                    self._space.put(place, row)

    def close(self) -> None:
        """Give the memory back. Collective."""
        self.team.barrier()
        self._free_parts()

    def _free_parts(self) -> None:
        for part in self._parts:
            for address in part.own(self.team.position) if part.num_rows else ():
                self._space.free(address)
        self._parts = []

    # --- how

    def own_parts(self) -> list[TablePart]:
        """The shards, for training and checkpoints."""
        return self._parts

    def stored(self, part: TablePart, rows: np.ndarray) -> np.ndarray:
        """A shard's columns of whole `rows`, as the table holds them."""
        columns = np.ascontiguousarray(rows[:, part.shard.begin : part.shard.end], self.dtype)
        return quantise(columns) if self.layout.is_quantised else columns

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise AddressError for the first id that names no row."""
        bad = np.flatnonzero((ids < 0) | (ids >= self.num_rows))
        if len(bad):
            self._refuse(ids, int(bad[0]))

    def _refuse(self, ids: np.ndarray, at: int) -> None:
        raise AddressError(f"id {ids[at]} at position {at} names no row of a table of {self.num_rows}")

    def _places(self, part: TablePart, ids: np.ndarray) -> np.ndarray:
        """The address of each row. Raises AddressError."""
        places = np.empty(len(ids), np.int64)
        bad = cpu_place_rows.compiled(
            places.ctypes.data,
            ids.ctypes.data,
            len(ids),
            self.num_rows,
            part.bases.ctypes.data,
            len(part.bases),
            part.row_bytes,
        )
        if bad != NOTHING_BAD:
            self._refuse(ids, bad)
        return places

    def _pool_addresses(
        self,
        out: np.ndarray,
        part: TablePart,
        addresses: np.ndarray,
        bags: Bags,
        mode: str,
        are_fetched: bool = False,
    ) -> None:
        weights = 0 if bags.weights is None else bags.weights.ctypes.data
        row_type = "f32" if are_fetched and self.layout.is_quantised else self.layout.row_type
        CPU_POOL[mode, row_type].compiled(
            out.ctypes.data + 4 * part.shard.begin,
            out.strides[0],
            addresses.ctypes.data,
            weights,
            bags.offsets.ctypes.data,
            bags.num_bags,
            part.shard.num_columns,
        )

    def _pool_near(self, out: np.ndarray, part: TablePart, bags: Bags) -> None:
        """Each home sums what it has of every bag; the sums are added in the order of the homes."""
        columns = out[:, part.shard.begin : part.shard.end]
        columns[:] = 0
        homes, rows = part.shard.whereabouts(bags.ids)
        bag_of = bags.bag_of
        for index in range(len(part.bases)):
            mine = np.flatnonzero(homes == index)
            if not len(mine):
                continue
            counts = np.bincount(bag_of[mine], minlength=bags.num_bags)
            sums = np.empty((bags.num_bags, part.shard.num_columns), np.float32)
            self._space.near.gather_sum(
                sums,
                int(part.bases[index]),
                part.shard.rows_at(part.shard.homes[index], self.num_rows),
                part.row_bytes,
                np.concatenate([[0], np.cumsum(counts)]),
                rows[mine],
                self.layout.row_type,
            )
            columns += sums

    def _fetch(self, out: np.ndarray, ids: np.ndarray) -> None:
        """Copy rows to `out`, two-dimensional, as what they stand for."""
        if self.semantics != "load_store":
            self.check_ids(ids)
        for part in self._parts:
            columns = out[:, part.shard.begin : part.shard.end]
            if self.semantics == "load_store" and not self.layout.is_quantised:
                self._copy_rows(columns, part, ids)
                continue
            rows = np.empty((len(ids), part.row_bytes), np.uint8)
            if self.semantics == "load_store":
                self._copy_rows(rows, part, ids)
            else:
                self._ask_for_rows(rows, part, ids)
            columns[:] = restored(rows) if self.layout.is_quantised else rows.view(self.dtype)

    def _copy_rows(self, out: np.ndarray, part: TablePart, ids: np.ndarray) -> None:
        places = self._places(part, ids)
        cpu_copy_rows.compiled(out.ctypes.data, out.strides[0], places.ctypes.data, len(ids), part.row_bytes)

    def _ask_for_rows(self, out: np.ndarray, part: TablePart, ids: np.ndarray) -> None:
        homes, rows = part.shard.whereabouts(ids)
        for index in range(len(part.bases)):
            mine = np.flatnonzero(homes == index)
            if len(mine):
                came = np.empty((len(mine), part.row_bytes), np.uint8)
                num_rows = part.shard.rows_at(part.shard.homes[index], self.num_rows)
                self._space.near.gather(came, int(part.bases[index]), num_rows, rows[mine])
                out[mine] = came


class TablePart:
    """A shard with its addresses: of the rows at each of its homes, and of their states."""

    def __init__(self, shard: Shard, row_bytes: int, state_bytes: int, num_rows: int, told: np.ndarray):
        self.shard, self.row_bytes, self.state_bytes, self.num_rows = shard, row_bytes, state_bytes, num_rows
        self.bases, self.states = np.ascontiguousarray(told[:, 0]), np.ascontiguousarray(told[:, 1])

    def own(self, position: int) -> tuple[int, int]:
        """Addresses of a member's rows and states."""
        index = self.shard.homes.index(position)
        return int(self.bases[index]), int(self.states[index])

    def own_rows(self, position: int, dtype: Any) -> np.ndarray:
        """A member's own rows, no copy."""
        return self._view(self.own(position)[0], self.row_bytes).view(dtype)

    def own_states(self, position: int) -> np.ndarray:
        """Their states, float32, no copy."""
        return self._view(self.own(position)[1], self.state_bytes).view(np.float32)

    def _view(self, address: int, row_bytes: int) -> np.ndarray:
        image = (ctypes.c_uint8 * (self.num_rows * row_bytes)).from_address(address)
        return np.ctypeslib.as_array(image).reshape(self.num_rows, row_bytes)
