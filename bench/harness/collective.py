"""What a collective operation of the benchmark moves: its buffers, and what must stand in them before and after.

Names and sizes are those of nccl-tests: the size of an operation is that of its larger buffer. All sides of a point,
umem's and peers', are built from the same `Operation`, and so are filled and checked alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REDUCING = ("all_reduce", "reduce_scatter")
IN_BLOCKS = ("all_gather", "reduce_scatter", "all_to_all")  # a buffer has a block for each rank
IN_PLACE = ("all_reduce", "all_gather", "reduce_scatter")  # with a buffer of its own, too
ROOT = 0

ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
}
REDUCTIONS = ("sum", "prod", "min", "max", "avg")
TILE_BYTES = 63 * 64  # no power of two: a block in the wrong place has the wrong bytes
TOGETHER_BYTES = 1024  # up to here touching is a small part of an operation, and a clock would not be
NUM_FILLINGS = (
    2  # what stands in buffers alternates, so that what the last operation left is wrong in this one
)

# A touch: where, the tile that is repeated there, how many bytes.
Touch = tuple[int, bytes, int]


@dataclass(frozen=True)
class Operation:
    """One operation as rank `rank` of `num_ranks` calls it."""

    name: str
    num_bytes: int
    num_ranks: int
    rank: int
    dtype: str = "float32"
    op: str = "sum"
    in_place: bool = False

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.dtype]

    @property
    def block_bytes(self) -> int:
        """Bytes that go from one rank to one other."""
        return self.num_bytes // self.num_ranks if self.name in IN_BLOCKS else self.num_bytes

    @property
    def src_bytes(self) -> int:
        """Bytes of a rank's input."""
        return self.block_bytes if self.name == "all_gather" else self.num_bytes

    @property
    def dst_bytes(self) -> int:
        """Bytes of a rank's output."""
        return self.block_bytes if self.name == "reduce_scatter" else self.num_bytes

    @property
    def num_buffers(self) -> int:
        """Pieces of memory that it works on: 1 where the output lies in the input, or the other way round."""
        return 1 if self.in_place or self.name == "broadcast" else 2

    def places(self, buffers: list[int]) -> tuple[int, int]:
        """Addresses of input and output in `num_buffers` pieces of memory of `num_bytes` each."""
        src, dst = buffers[0], buffers[-1]
        if self.in_place and self.name == "all_gather":
            src += self.rank * self.block_bytes
        if self.in_place and self.name == "reduce_scatter":
            dst += self.rank * self.block_bytes
        return src, dst

    def before(self, src: int, turn: int) -> list[Touch]:
        """What the rank fills its input with."""
        if self.name == "barrier" or (self.name == "broadcast" and self.rank != ROOT):
            return []
        num_blocks = self.src_bytes // self.block_bytes
        return [
            (
                src + block * self.block_bytes,
                self._bytes(self._tile(self.rank, block, turn)),
                self.block_bytes,
            )
            for block in range(num_blocks)
        ]

    def after(self, dst: int, turn: int) -> list[Touch]:
        """What must stand in the rank's output."""
        length = self.block_bytes
        if self.name == "barrier":
            return []
        if self.name in REDUCING:
            block = self.rank if self.name == "reduce_scatter" else 0
            return [(dst, self._bytes(self._combined(block, turn)), length)]
        if self.name == "broadcast":
            return [(dst, self._bytes(self._tile(ROOT, 0, turn)), length)]
        block = self.rank if self.name == "all_to_all" else 0
        return [
            (dst + sender * length, self._bytes(self._tile(sender, block, turn)), length)
            for sender in range(self.num_ranks)
        ]

    def _tile(self, rank: int, block: int, turn: int) -> np.ndarray:
        """Small whole numbers, which every type and every order of combining gives exactly."""
        most = 2 if self.op == "prod" else 4
        numbers = np.random.default_rng((rank, block, turn)).integers(1, most, TILE_BYTES, endpoint=True)
        return numbers[: TILE_BYTES // self.item_bytes].astype(np.float64)

    def _combined(self, block: int, turn: int) -> np.ndarray:
        tiles = np.stack([self._tile(rank, block, turn) for rank in range(self.num_ranks)])
        match self.op:
            case "prod":
                return tiles.prod(axis=0)
            case "min":
                return tiles.min(axis=0)
            case "max":
                return tiles.max(axis=0)
            case "avg":
                return tiles.sum(axis=0) / self.num_ranks
        return tiles.sum(axis=0)

    def _bytes(self, numbers: np.ndarray) -> bytes:
        if self.dtype == "bfloat16":
            bits = numbers.astype(np.float32).view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
        if self.dtype.startswith("float"):
            return numbers.astype(self.dtype).tobytes()
        return numbers.astype(np.int64).astype(self.dtype).tobytes()
