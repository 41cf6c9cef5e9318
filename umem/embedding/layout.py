"""Which rows of a table lie where: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import ArgumentTypeError, ConfigError
from ..kernels.embedding.bags import QUANTISED, QUANTISED_HEADER_BYTES
from ..space.dtypes import element_type

ROW_TYPES_OF = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": QUANTISED}
BY_ROWS, BY_COLUMNS = "rows", "columns"


@dataclass(frozen=True)
class Shard:
    """Columns [begin, end) of all rows, spread over `homes` (positions in the team): row r is at homes[r % their
    number], as its row r // their number."""

    begin: int
    end: int
    homes: tuple[int, ...]

    @property
    def num_columns(self) -> int:
        """Columns of it."""
        return self.end - self.begin

    def whereabouts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each row: which of `homes` it is at, and which row there. As kernels/embedding/places.py."""
        return ids % len(self.homes), ids // len(self.homes)

    def rows_at(self, position: int, num_rows: int) -> int:
        """How many of a table's rows lie at a member."""
        if position not in self.homes:
            return 0
        num_homes, index = len(self.homes), self.homes.index(position)
        return (num_rows - index + num_homes - 1) // num_homes


@dataclass(frozen=True)
class Layout:
    """A table of `num_rows` rows of `num_columns` elements, and its shards."""

    num_rows: int
    num_columns: int
    kind: np.dtype
    shards: tuple[Shard, ...]

    @property
    def is_quantised(self) -> bool:
        """Whether elements are bytes, by which a row's scale and offset stand for float32."""
        return self.row_type == QUANTISED

    @property
    def row_type(self) -> str:
        """What kernels call the elements."""
        return ROW_TYPES_OF[self.kind.name]

    def row_bytes(self, shard: Shard) -> int:
        """Bytes of a shard's row."""
        header_bytes = QUANTISED_HEADER_BYTES if self.is_quantised else 0
        return header_bytes + shard.num_columns * self.kind.itemsize


def plan_layout(num_rows: Any, num_columns: Any, dtype: Any, placement: Any, size: int) -> Layout:
    """The layout for a team of `size`. `placement` is "rows", "columns" or the position of the one home.

    Raises ConfigError, ArgumentTypeError.
    """
    num_rows, num_columns = whole(num_rows, "num_rows", 0), whole(num_columns, "num_columns", 1)
    kind = element_type(dtype)
    if kind.name not in ROW_TYPES_OF or not kind.isnative:
        raise ArgumentTypeError(f"rows of {kind}: tables have {', '.join(ROW_TYPES_OF)}")
    if placement == BY_ROWS:
        shards = [Shard(0, num_columns, tuple(range(size)))]
    elif placement == BY_COLUMNS:
        cuts = [num_columns * position // size for position in range(size + 1)]
        shards = [
            Shard(begin, end, (position,))
            for position, (begin, end) in enumerate(pairwise(cuts))
            if begin < end
        ]
    elif isinstance(placement, int) and not isinstance(placement, bool) and 0 <= placement < size:
        shards = [Shard(0, num_columns, (placement,))]
    else:
        raise ConfigError(
            f"placement={placement!r} is none of {BY_ROWS!r}, {BY_COLUMNS!r}, or a position in a team of {size}"
        )
    return Layout(num_rows, num_columns, kind, tuple(shards))
