"""Where a rank's part of coherence stands: in its metadata segment, behind the heap's records.

    header | block words (device, host) | directory words (device, host) | tags, pins and copies of each line size

Tables are sparse: a directory word is backed once its line is cached, a copy once it has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..kernels.coherent import layout as words
from ..kernels.heap.layout import BLOCK_BYTES, BLOCK_LOG2
from ..kernels.page.control import CONTROL_BYTES
from ..memory.address import AddressMap
from ..units import align_up, format_size

DEFAULT_CACHE_BYTES = 16 << 20  # of copies, for each line size that is used
DEFAULT_WAYS = 8  # a set's tags fill a line of the processor
MAX_WAYS = 16
PAGE = 4096
WORD = 8


@dataclass(frozen=True)
class CacheSize:
    """The size of a rank's cache, the same for every line size: bytes of copies, slots a set."""

    num_bytes: int = DEFAULT_CACHE_BYTES
    num_ways: int = DEFAULT_WAYS

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("bytes of the line cache", self.num_bytes, 1 << words.MIN_LINE_LOG2, 1 << 40),
            ("ways of the line cache", self.num_ways, 1, MAX_WAYS),
        ):
            if value & (value - 1) or not least <= value <= most:
                raise ConfigError(f"{name}: {value} is not a power of two from {least} to {most}")
        if self.num_ways << words.MIN_LINE_LOG2 > self.num_bytes:
            raise ConfigError(
                f"a line cache of {format_size(self.num_bytes)} has no set of {self.num_ways} lines;"
                " take more bytes or fewer ways"
            )

    def num_slots(self, line_log2: int) -> int:
        """Slots for lines of this size: at least one set."""
        return max(self.num_bytes >> line_log2, self.num_ways)

    def num_groups(self, line_log2: int) -> int:
        """Groups of slots that a range pins at once."""
        return (self.num_slots(line_log2) + words.GROUP_SLOTS - 1) >> words.GROUP_LOG2


class LineLayout:
    """Offsets inside a metadata segment of a world with these segments; `start` is where this part begins."""

    def __init__(self, start: int, device_bytes: int, host_bytes: int, size: CacheSize):
        self.start, self.size = start, size
        self._at = start + words.CACHE_HEADER_BYTES
        segments = (align_up(device_bytes, BLOCK_BYTES) + BLOCK_BYTES, align_up(host_bytes, BLOCK_BYTES))
        self.blocks = [self._take((num_bytes >> BLOCK_LOG2) * WORD) for num_bytes in segments]
        self.directories = [
            self._take((num_bytes >> BLOCK_LOG2) * words.DIRECTORY_WORDS_A_BLOCK * WORD)
            for num_bytes in segments
        ]
        self.geometries = {
            line_log2: (
                self._take((size.num_slots(line_log2) + size.num_groups(line_log2)) * WORD),
                self._take(size.num_slots(line_log2) << line_log2),
            )
            for line_log2 in range(words.MIN_LINE_LOG2, words.MAX_LINE_LOG2 + 1)
        }
        self.end = self._at

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole."""
        return self.end - self.start

    def _take(self, num_bytes: int) -> int:
        at = self._at
        self._at = align_up(at + num_bytes, PAGE)
        return at

    def header(self, plan: AddressMap, rank: int) -> int:
        """Address of the header of `rank`."""
        return plan.meta_address(rank) + self.start

    def initialise(self, page: np.ndarray, plan: AddressMap, rank: int, protocol_words: list[int]) -> None:
        """Write the header of `rank` into its own `page` of int64 words, before any other rank maps it."""
        meta = plan.meta_address(rank)
        page[words.CACHE_CONTROL], page[words.CACHE_RANK] = meta, rank
        page[words.CACHE_VERSION_MASK] = (1 << words.TAG_VERSION_BITS) - 1
        for kind in (0, 1):
            page[words.CACHE_DIRECTORIES + kind] = meta + self.directories[kind]
            page[words.CACHE_BLOCKS + kind] = meta + self.blocks[kind]
        page[words.CACHE_ROWS : words.CACHE_ROWS + words.NUM_ROWS] = protocol_words
        for line_log2, (tags, copies) in self.geometries.items():
            geometry = words.CACHE_GEOMETRIES + line_log2 * words.GEOMETRY_WORDS
            page[geometry + words.GEOMETRY_TAGS], page[geometry + words.GEOMETRY_COPIES] = (
                meta + tags,
                meta + copies,
            )
            page[geometry + words.GEOMETRY_SLOT_MASK] = self.size.num_slots(line_log2) - 1
            page[geometry + words.GEOMETRY_NUM_WAYS] = self.size.num_ways
        page[words.CACHE_MAGIC] = words.CACHE_MAGIC_VALUE


assert CONTROL_BYTES % PAGE == 0
