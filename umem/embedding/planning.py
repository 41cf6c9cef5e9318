"""Where tables should lie before any is made: bytes and expected look-ups a rank, and why. Pure functions.

A table that is dealt out by rows loads all ranks alike and costs a request to each home where members do not map each
other. One that lies whole asks one home. So a table is dealt out where it would weigh too much on one rank, by its
bytes or by its look-ups, and else lies whole where least is looked up so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError, OutOfMemory
from ..kernels.embedding.update import OPTIMIZER_STEPS, state_bytes_of
from ..units import format_size
from .layout import BY_ROWS, plan_layout

WHOLE_SHARE = 0.25  # of what a rank has when all is even: a table beyond it is dealt out


@dataclass(frozen=True)
class TableSpec:
    """A table as its file describes it; `lookups` are rows that all ranks together look up in a step."""

    name: str
    num_rows: int
    num_columns: int
    dtype: str = "float32"
    optimizer: str | None = None
    lookups: float = 1.0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its state."""
        layout = plan_layout(self.num_rows, self.num_columns, self.dtype, BY_ROWS, 1)
        state = 0 if self.optimizer is None else state_bytes_of(self.optimizer, self.num_columns)
        return layout.row_bytes(layout.shards[0]) + state

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return self.num_rows * self.row_bytes

    @property
    def traffic_bytes(self) -> float:
        """Bytes looked up in a step."""
        return self.lookups * self.row_bytes


@dataclass(frozen=True)
class Placed:
    """A table, its `placement` as EmbeddingTable takes it, and the reason."""

    table: TableSpec
    placement: str | int
    why: str


@dataclass(frozen=True)
class Plan:
    """The tables, the largest traffic first, and what comes to each rank."""

    placed: tuple[Placed, ...]
    bytes_of_rank: tuple[int, ...]
    lookups_of_rank: tuple[float, ...]
    traffic_of_rank: tuple[float, ...]


def read_tables(entries: Any) -> list[TableSpec]:
    """The tables of a file: a list of objects with the names of TableSpec's fields. Raises ConfigError."""
    if not isinstance(entries, list) or not entries:
        raise ConfigError(
            "tables are a list of objects: [{'name': 'users', 'num_rows': 1000, 'num_columns': 64}]"
        )
    known = {each.name for each in fields(TableSpec)}
    tables = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"table {index} is no object: {entry!r}")
        unknown, missing = set(entry) - known, {"name", "num_rows", "num_columns"} - set(entry)
        if unknown or missing:
            raise ConfigError(
                f"table {index}: " + "; ".join(
                    f"{what} {', '.join(sorted(names))}"
                    for what, names in (("unknown", unknown), ("missing", missing))
                    if names
                ) + f". There are {', '.join(sorted(known))}"
            )  # fmt: skip
        table = TableSpec(**entry)
        plan_layout(table.num_rows, table.num_columns, table.dtype, BY_ROWS, 1)
        if table.optimizer is not None and table.optimizer not in OPTIMIZER_STEPS:
            raise ConfigError(
                f"table {table.name}: optimizer {table.optimizer!r} is none of {', '.join(OPTIMIZER_STEPS)}"
            )
        if not isinstance(table.lookups, int | float) or not table.lookups >= 0:
            raise ConfigError(f"table {table.name}: lookups={table.lookups!r} is no number of rows in a step")
        tables.append(table)
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise ConfigError(f"a table's name stands twice in {names}")
    return tables


def plan_tables(tables: Iterable[TableSpec], num_ranks: int, memory_bytes: int) -> Plan:
    """Place the tables in `num_ranks` ranks of `memory_bytes` each. Raises OutOfMemory, which says what is missing."""
    ordered = sorted(tables, key=lambda table: (-table.traffic_bytes, -table.num_bytes, table.name))
    fair_bytes = sum(table.num_bytes for table in ordered) / num_ranks
    fair_traffic = sum(table.traffic_bytes for table in ordered) / num_ranks
    used, lookups, traffic = [0] * num_ranks, [0.0] * num_ranks, [0.0] * num_ranks
    placed = []
    for table in ordered:
        shares = {
            "bytes": table.num_bytes / fair_bytes if fair_bytes else 0.0,
            "look-ups": table.traffic_bytes / fair_traffic if fair_traffic else 0.0,
        }
        heavy = [
            f"{share:.2g} of a rank's fair {what}" for what, share in shares.items() if share > WHOLE_SHARE
        ]
        roomy = [rank for rank in range(num_ranks) if used[rank] + table.num_bytes <= memory_bytes]
        if num_ranks > 1 and (heavy or not roomy):
            why = f"it would be {' and '.join(heavy)}" if heavy else "no rank has room for all of it"
            ranks = range(num_ranks)
            placed.append(Placed(table, BY_ROWS, why))
        elif roomy:
            home = min(roomy, key=lambda rank: (traffic[rank], used[rank], rank))
            ranks = range(home, home + 1)
            placed.append(
                Placed(
                    table, home, "small; least is looked up there so far" if num_ranks > 1 else "the one rank"
                )
            )
        else:
            ranks = range(1)
        for rank in ranks:
            used[rank] += -(-table.num_rows // len(ranks)) * table.row_bytes
            lookups[rank] += table.lookups / len(ranks)
            traffic[rank] += table.traffic_bytes / len(ranks)
        over = [rank for rank in ranks if used[rank] > memory_bytes]
        if over:
            raise OutOfMemory(
                f"table {table.name} of {format_size(table.num_bytes)} does not fit: rank {over[0]} would have"
                f" {format_size(used[over[0]])} of {format_size(memory_bytes)}; more ranks, more memory, or rows of"
                " fewer bytes"
            )
    return Plan(tuple(placed), tuple(used), tuple(lookups), tuple(traffic))
