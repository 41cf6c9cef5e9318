"""Ids in bags, as a program gives them, checked: and what is left of them without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import ArgumentTypeError, ConfigError

MODES = ("sum", "mean", "max")


@dataclass(frozen=True)
class Bags:
    """Bag b has ids[offsets[b] : offsets[b + 1]], each with its weight; `weights` None: all 1."""

    ids: np.ndarray  # int64
    offsets: np.ndarray  # int64, one more than bags
    weights: np.ndarray | None  # float32

    @property
    def num_bags(self) -> int:
        """Number of bags."""
        return len(self.offsets) - 1

    @property
    def bag_of(self) -> np.ndarray:
        """The bag of each id."""
        return np.repeat(np.arange(self.num_bags), np.diff(self.offsets))

    def averaging(self) -> Bags:
        """The same with weights that make a sum a mean: a whole bag's, wherever its rows lie."""
        counts = np.diff(self.offsets)
        return Bags(
            self.ids,
            self.offsets,
            np.repeat(np.float32(1) / np.maximum(counts, 1), counts).astype(np.float32),
        )


def ids_of(ids: Any, what: str = "ids") -> np.ndarray:
    """`ids` as int64 in one piece, of any shape. Raises ArgumentTypeError."""
    array = np.asarray(ids)
    if array.dtype.kind not in "iu":
        if array.size:
            raise ArgumentTypeError(f"{what} are {array.dtype}: they are whole numbers")
        array = array.astype(np.int64)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ArgumentTypeError(f"{what} reach {array.max()}: they are int64")
    return np.asarray(
        array, np.int64, order="C"
    )  # which, other than ascontiguousarray, leaves a single id one


def bags_of(
    ids: Any,
    offsets: Any = None,
    weights: Any = None,
    padding_index: int | None = None,
    mode: str = "sum",
    includes_last: bool = False,
) -> Bags:
    """The bags of `ids`: a row each of a matrix, or, of a vector, from each offset to the next.

    With `includes_last` the last of `offsets` is the number of ids, and begins no bag. Ids that are `padding_index`
    count for nothing. Raises ConfigError, which names the first offset that is wrong.
    """
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r} is none of {', '.join(MODES)}")
    array = ids_of(ids)
    if array.ndim == 2:
        if offsets is not None:
            raise ConfigError("a matrix of ids has a bag in each row: it takes no offsets")
        cuts = np.arange(array.shape[0] + 1) * array.shape[1]
    elif array.ndim == 1 and offsets is not None:
        cuts = ids_of(offsets, "offsets")
        _check_offsets(cuts, len(array))
        if not includes_last:
            cuts = np.append(cuts, len(array))
        elif not len(cuts) or cuts[-1] != len(array):
            raise ConfigError(f"the last offset is {cuts[-1:]}, and there are {len(array)} ids")
    else:
        raise ConfigError(f"ids of shape {array.shape}: bags are a matrix, or a vector with offsets")
    flat = array.reshape(-1)
    kept_weights = None
    if weights is not None:
        if mode != "sum":
            raise ConfigError(f"weights go with sums, not with mode={mode!r}")
        kept_weights = np.ascontiguousarray(weights, np.float32).reshape(-1)
        if len(kept_weights) != len(flat):
            raise ConfigError(f"{len(kept_weights)} weights for {len(flat)} ids")
        bad = np.flatnonzero(np.isnan(kept_weights))
        if len(bad):
            raise ConfigError(f"weight {bad[0]} is NaN")
    if padding_index is not None:
        kept = flat != whole(padding_index, "padding_index")
        if not kept.all():
            cuts = np.concatenate([[0], np.cumsum(kept)])[cuts]
            flat = flat[kept]
            kept_weights = None if kept_weights is None else kept_weights[kept]
    return Bags(flat, np.ascontiguousarray(cuts, np.int64), kept_weights)


def _check_offsets(offsets: np.ndarray, num_ids: int) -> None:
    if offsets.ndim != 1:
        raise ConfigError(f"offsets of shape {offsets.shape}: they are a vector")
    if len(offsets) and offsets[0] != 0:
        raise ConfigError(f"offset 0 is {offsets[0]}: the first bag begins at 0")
    down = np.flatnonzero(np.diff(offsets) < 0)
    if len(down):
        at = int(down[0]) + 1
        raise ConfigError(f"offset {at} is {offsets[at]}, below the one before, {offsets[at - 1]}")
    if len(offsets) and offsets[-1] > num_ids:
        at = int(np.argmax(offsets > num_ids))
        raise ConfigError(f"offset {at} is {offsets[at]}, beyond the {num_ids} ids")
    if not len(offsets) and num_ids:
        raise ConfigError(f"no offsets for {num_ids} ids")
