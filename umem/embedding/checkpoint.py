"""A table on disk: saved by all members, each its own rows, and loaded by any number of them.

A checkpoint is a folder with a file of rows and one of states for each home of each shard, and a description that is
written last: a checkpoint without one is not whole. Several tables take a folder each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .layout import Shard
from .table import EmbeddingTable, TablePart

DESCRIPTION = "table.json"
FORMAT = 1


def save(table: EmbeddingTable, folder: str | Path) -> None:
    """Write the table's rows and states to a folder that all members reach. Collective.

    What is there already is replaced; until the end it counts as not whole. Raises OSError.
    """
    team, place = table.team, Path(folder)
    if team.position == 0:
        place.mkdir(parents=True, exist_ok=True)
        (place / DESCRIPTION).unlink(missing_ok=True)
    team.barrier()
    for number, part in enumerate(table.own_parts()):
        if part.num_rows:
            index = part.shard.homes.index(team.position)
            _write(_file(place, "rows", number, index), part.own_rows(team.position, np.uint8))
            if part.state_bytes:
                _write(_file(place, "states", number, index), part.own_states(team.position))
    team.barrier()
    if team.position == 0:
        told = {
            "format": FORMAT,
            "num_rows": table.num_rows,
            "num_columns": table.num_columns,
            "dtype": table.layout.kind.name,
            "optimizer": table.optimizer,
            "num_steps": table.num_steps,
            "shards": [[s.begin, s.end, len(s.homes)] for s in table.layout.shards],
        }
        _write_text(place / DESCRIPTION, json.dumps(told, indent=1) + "\n")
    team.barrier()


def load(table: EmbeddingTable, folder: str | Path) -> None:
    """Fill the table with what was saved, by however many members and in whatever placement. Collective.

    States are taken where the optimizer is the same; without one the table takes the rows alone. A row-wise state is
    a shard's, so a placement by columns keeps its own. Raises CheckpointError for a checkpoint that is not whole or of
    another table.
    """
    team, place = table.team, Path(folder)
    told = _description(place)
    wanted = {"num_rows": table.num_rows, "num_columns": table.num_columns, "dtype": table.layout.kind.name}
    for name, value in wanted.items():
        if told[name] != value:
            raise CheckpointError(f"{place}: {name} is {told[name]} there and {value} in the table")
    saved = [Shard(begin, end, tuple(range(num_homes))) for begin, end, num_homes in told["shards"]]
    same_states = table.optimizer is not None and told["optimizer"] == table.optimizer
    cuts = [(s.begin, s.end) for s in table.layout.shards]
    if same_states and cuts != [(s.begin, s.end) for s in saved]:
        raise CheckpointError(
            f"{place}: its columns are cut as {[(s.begin, s.end) for s in saved]}, the table's as {cuts}, and the"
            f" states of {table.optimizer} go with such a part: load into a table of that placement, or one without an"
            " optimizer"
        )
    for number, shard in enumerate(saved):
        for index in range(len(shard.homes)):
            rows = _read(place, "rows", number, index, shard, table)
            states = _read(place, "states", number, index, shard, table) if same_states else None
            ids = np.arange(index, table.num_rows, len(shard.homes))
            for part in table.own_parts():
                _take(table, part, shard, ids, rows, states)
    table.num_steps = told["num_steps"] if same_states else 0
    team.barrier()


def _take(
    table: EmbeddingTable,
    part: TablePart,
    saved: Shard,
    ids: np.ndarray,
    rows: np.ndarray,
    states: np.ndarray | None,
) -> None:
    """Copy what this member holds of a file's rows."""
    shard, position = part.shard, table.team.position
    begin, end = max(saved.begin, shard.begin), min(saved.end, shard.end)
    if not part.num_rows or begin >= end:
        return
    homes, slots = shard.whereabouts(ids)
    mine = np.flatnonzero(homes == shard.homes.index(position))
    slots = slots[mine]
    if table.layout.is_quantised:  # with the scales of the columns that they were saved with
        if (saved.begin, saved.end) != (shard.begin, shard.end):
            raise CheckpointError(
                f"rows of int8 are cut as columns {saved.begin} to {saved.end}: load into such a table"
            )
        part.own_rows(position, np.uint8)[slots] = rows[mine]
    else:
        own = part.own_rows(position, table.dtype)
        own[slots, begin - shard.begin : end - shard.begin] = rows[
            mine, begin - saved.begin : end - saved.begin
        ]
    if states is not None and part.state_bytes:
        part.own_states(position)[slots] = states[mine]


def _description(place: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((place / DESCRIPTION).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{place} holds no whole checkpoint: {DESCRIPTION}, which is written last, is missing"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{place / DESCRIPTION}: {error}") from None
    if told.get("format") != FORMAT:
        raise CheckpointError(f"{place}: format {told.get('format')}, and this version reads {FORMAT}")
    return told


def _read(place: Path, kind: str, number: int, index: int, shard: Shard, table: EmbeddingTable) -> np.ndarray:
    num_rows = shard.rows_at(index, table.num_rows)
    path = _file(place, kind, number, index)
    try:
        found = np.load(path, mmap_mode="r") if num_rows else np.empty((0, 1), np.uint8)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or cut short: {error}") from None
    if len(found) != num_rows:
        raise CheckpointError(f"{path} has {len(found)} rows in place of {num_rows}")
    if kind == "rows" and num_rows and not table.layout.is_quantised:
        return found.view(table.dtype)
    return found


def _file(place: Path, kind: str, number: int, index: int) -> Path:
    return place / f"{kind}-{number}-{index}.npy"


def _write(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
