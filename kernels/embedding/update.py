"""Optimizer steps of rows at any addresses, whose gradients are summed already: one for each row that is named once.

A row's state lies apart from it, at its home too: nothing for sgd, one float32 for the row-wise adagrad, two rows of
float32 for adam. Gradients are float32. Rows of two bytes are widened, stepped and rounded once. The steps are those
of torch.optim.SGD, torch.optim.SparseAdam, and of the row-wise Adagrad that recommenders use: the mean of a row's
squared gradients in place of each element's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..build.compile import cpu_kernel, device_function
from ..build.variants import ON_DEMAND, variant
from ..intrinsics import vector
from ..intrinsics.scalar import load_f32, load_i64, store_f32
from ..intrinsics.scalar import load_f32 as load_row
from ..intrinsics.scalar import store_f32 as store_row

# Words of `settings` (float32).
RATE, EPSILON, BETA_1, BETA_2, CORRECTION_1, CORRECTION_2, DECAY = range(7)
NUM_SETTINGS = 8


@device_function
def decayed(gradient, weight, settings):
    """A gradient with what weight decay adds."""
    return gradient + load_f32(settings, DECAY) * weight


def sgd(row, state, gradient, num_columns, settings):
    """One row."""
    rate = load_f32(settings, RATE)
    column = 0
    while column < num_columns:
        weight = load_row(row, column)
        store_row(row, column, weight - rate * decayed(load_f32(gradient, column), weight, settings))
        column += 1


def adagrad(row, state, gradient, num_columns, settings):
    """One row; `state` is the sum of its mean squares."""
    total = np.float32(0)
    column = 0
    while column < num_columns:
        change = decayed(load_f32(gradient, column), load_row(row, column), settings)
        total += change * change
        column += 1
    total = load_f32(state, 0) + total / np.float32(num_columns)
    store_f32(state, 0, total)
    rate = load_f32(settings, RATE) / (np.float32(math.sqrt(total)) + load_f32(settings, EPSILON))
    column = 0
    while column < num_columns:
        weight = load_row(row, column)
        store_row(row, column, weight - rate * decayed(load_f32(gradient, column), weight, settings))
        column += 1


def adam(row, state, gradient, num_columns, settings):
    """One row; `state` has the first moments of its columns, then the second. As SparseAdam: rows that have no gradient
    do not move, and the correction goes by the table's steps."""
    beta_1, beta_2 = load_f32(settings, BETA_1), load_f32(settings, BETA_2)
    rate = load_f32(settings, RATE) * load_f32(settings, CORRECTION_2) / load_f32(settings, CORRECTION_1)
    one = np.float32(1)
    column = 0
    while column < num_columns:
        weight = load_row(row, column)
        change = decayed(load_f32(gradient, column), weight, settings)
        first = beta_1 * load_f32(state, column) + (one - beta_1) * change
        second = beta_2 * load_f32(state, num_columns + column) + (one - beta_2) * change * change
        store_f32(state, column, first)
        store_f32(state, num_columns + column, second)
        size = np.float32(math.sqrt(second)) + load_f32(settings, EPSILON)
        store_row(row, column, weight - rate * first / size)
        column += 1


step = sgd


def update(rows, row_bytes, states, state_bytes, slots, num_slots, gradients, num_columns, settings):
    """Step row slots[i] of `rows` by gradient i (`num_columns` float32, back to back). No slot twice."""
    i = 0
    while i < num_slots:
        slot = load_i64(slots, i)
        row, state = rows + slot * row_bytes, states + slot * state_bytes
        step(row, state, gradients + 4 * i * num_columns, num_columns, settings)
        i += 1


OPTIMIZER_STEPS = {"sgd": sgd, "adagrad": adagrad, "adam": adam}
UPDATE_SIGNATURE = "void(int64, int64, int64, int64, int64, int64, int64, int64, int64)"


def state_bytes_of(optimizer: str, num_columns: int) -> int:
    """Bytes of a row's state."""
    return {"sgd": 0, "adagrad": 4, "adam": 8 * num_columns}[optimizer]


def _update_of(optimizer: str, row_type: str) -> Any:
    names = {}
    if row_type != "f32":
        names = {
            "load_row": getattr(vector, f"load_{row_type}_f32"),
            "store_row": getattr(vector, f"store_f32_{row_type}"),
        }
    chosen = variant(OPTIMIZER_STEPS[optimizer], f"{optimizer}_{row_type}", **names)
    return variant(update, f"update_{optimizer}_{row_type}", step=chosen)


CPU_UPDATE = {
    (optimizer, row_type): cpu_kernel(UPDATE_SIGNATURE, group=ON_DEMAND)(_update_of(optimizer, row_type))
    for optimizer in OPTIMIZER_STEPS
    for row_type in ("f32", "f16", "bf16")
}
