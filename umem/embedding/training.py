"""Training: gradients of bags go to the homes of their rows, are summed there, and step each row once.

All members take part in a step, each with its part of the batch. A row's gradients are summed in the order of the
members and of the ids in their batches, so a batch gives the same bits however many members it is cut into.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError
from ..kernels.embedding.bags import CPU_POOL
from ..kernels.embedding.update import (
    BETA_1,
    BETA_2,
    CORRECTION_1,
    CORRECTION_2,
    CPU_UPDATE,
    DECAY,
    EPSILON,
    NUM_SETTINGS,
    RATE,
)
from .bags import Bags
from .table import EmbeddingTable, TablePart

RECORD_WORDS = 3  # of an id that goes to its home: its row there, its bag, the bits of its weight


def step(
    table: EmbeddingTable,
    bags: Bags,
    gradients: Any,
    rate: float,
    epsilon: float = 1e-8,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> None:
    """Step the rows that any member's bags name, by the table's optimizer. Collective; a batch may be empty.

    `gradients` [num_bags, num_columns] are those of the bags' weighted sums. Raises ConfigError, and AddressError for
    an id that names no row, before it joins in.
    """
    optimizer = table.optimizer
    if optimizer is None:
        raise ConfigError("the table has no optimizer: EmbeddingTable(..., optimizer='adagrad')")
    given = np.ascontiguousarray(gradients, np.float32)
    if given.shape != (bags.num_bags, table.num_columns):
        raise ConfigError(
            f"gradients of shape {given.shape} for {bags.num_bags} bags of {table.num_columns} columns"
        )
    table.check_ids(bags.ids)
    team = table.team
    most = np.array([bags.num_bags], np.int64)
    team.all_reduce(most, op="max")
    padded = np.zeros((int(most[0]), table.num_columns), np.float32)
    padded[: bags.num_bags] = given
    everyones = np.empty((team.size, *padded.shape), np.float32)
    team.all_gather(everyones, padded)
    table.num_steps += 1
    settings = _settings(table.num_steps, rate, epsilon, betas, weight_decay)
    for part in table.own_parts():
        records = _to_homes(table, part, bags)
        if part.num_rows and len(records):
            _step_own(table, optimizer, part, records, everyones, settings)
    team.barrier()  # others may read the rows from here on


def _to_homes(table: EmbeddingTable, part: TablePart, bags: Bags) -> np.ndarray:
    """What names this member's rows, of all members' bags: RECORD_WORDS each, by member and place in its batch."""
    team, homes = table.team, part.shard.homes
    index, rows = part.shard.whereabouts(bags.ids)
    order = np.argsort(index, kind="stable")
    records = np.empty((len(bags.ids), RECORD_WORDS), np.int64)
    records[:, 0], records[:, 1] = rows, bags.bag_of
    weights = np.ones(len(bags.ids), np.float32) if bags.weights is None else bags.weights
    records[:, 2] = weights.view(np.int32)
    sent = np.zeros(team.size, np.int64)
    sent[list(homes)] = np.bincount(index, minlength=len(homes))
    taken = np.zeros(team.size, np.int64)
    team.all_to_all(taken, sent)
    got = np.empty((int(taken.sum()), RECORD_WORDS), np.int64)
    outgoing = np.ascontiguousarray(records[order])
    team.all_to_all_v(got, outgoing, (taken * RECORD_WORDS).tolist(), (sent * RECORD_WORDS).tolist())
    got[:, 1] += np.repeat(np.arange(team.size), taken) << 32
    return got


def _step_own(
    table: EmbeddingTable,
    optimizer: str,
    part: TablePart,
    records: np.ndarray,
    everyones: np.ndarray,
    settings: np.ndarray,
) -> None:
    order = np.argsort(records[:, 0], kind="stable")
    slots, first = np.unique(records[order, 0], return_index=True)
    offsets = np.append(first, len(records)).astype(np.int64)
    member, bag = records[order, 1] >> 32, records[order, 1] & 0xFFFFFFFF
    row_bytes = everyones.strides[1]
    addresses = everyones.ctypes.data + (member * everyones.shape[1] + bag) * row_bytes + 4 * part.shard.begin
    weights = records[order, 2].astype(np.int32).view(np.float32)
    sums = np.empty((len(slots), part.shard.num_columns), np.float32)
    CPU_POOL["sum", "f32"].compiled(
        sums.ctypes.data,
        sums.strides[0],
        addresses.ctypes.data,
        weights.ctypes.data,
        offsets.ctypes.data,
        len(slots),
        part.shard.num_columns,
    )
    rows, states = part.own(table.team.position)
    CPU_UPDATE[optimizer, table.layout.row_type].compiled(
        rows,
        part.row_bytes,
        states,
        part.state_bytes,
        slots.ctypes.data,
        len(slots),
        sums.ctypes.data,
        part.shard.num_columns,
        settings.ctypes.data,
    )


def _settings(
    num_steps: int, rate: float, epsilon: float, betas: tuple[float, float], weight_decay: float
) -> np.ndarray:
    settings = np.zeros(NUM_SETTINGS, np.float32)
    settings[RATE], settings[EPSILON], settings[DECAY] = rate, epsilon, weight_decay
    settings[BETA_1], settings[BETA_2] = betas
    settings[CORRECTION_1] = 1 - betas[0] ** num_steps
    settings[CORRECTION_2] = np.sqrt(1 - betas[1] ** num_steps)
    return settings
