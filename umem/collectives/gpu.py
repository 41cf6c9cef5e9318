"""This rank's part of a team where it works on a GPU: operations are kernels, a launch for each slice of time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OutOfMemory
from ..kernels import status
from ..kernels.collective import layout
from ..kernels.collective.lanes import operation_kernel
from ..kernels.collective.rounds import NEVER
from ..kernels.page.control import CONTROL_BYTES, CONTROL_STOP
from ..memory.device.cuda_run import DEFAULT_STREAM
from .mapped import MappedTeam, words_at
from .thresholds import EAGER_BYTES, TWO_SHOT_BYTES

if TYPE_CHECKING:
    from ..space.space import Space

WARP_LANES, MOST_LANES, MOST_BLOCKS = 32, 256, 32
BYTES_PER_LANE = 64  # four vectors in flight
BYTES_PER_BLOCK = 64 << 10  # as many more blocks as there are of these
# Of a member's own memory: its words, then tables, then what all_to_all_v is called with, then the control page.
TABLES_AT = 8 * layout.TEAM_WORDS


class GpuTeam(MappedTeam):
    """This rank's part of a team, on its GPU. An operation goes behind what its buffers' streams hold, and has ended
    when `run` returns."""

    def __init__(self, space: Space, ranks: Sequence[int], key: str, timeout_s: float):
        self._gpu = space.gpu
        self._followed = threading.local()
        super().__init__(space, ranks, key, timeout_s)

    def combining(self, operation: int, element: str) -> Any:
        """The kernel of a reduction."""
        return operation_kernel(operation, element)

    def follow(self, *streams: int) -> None:
        """Have this thread's next operation begin behind what the streams hold now."""
        self._followed.streams = tuple(dict.fromkeys(streams))

    # --- what differs from a CPU

    def _make_page(self) -> int:
        """As of any member, and the memory for its own words on its GPU; 0 where there is none for one of them."""
        table_bytes = 8 * layout.TABLE_ROW_WORDS * self.size
        self._sources_at = TABLES_AT + 8 * self.size
        self._reach_at = self._sources_at + 8 * self.size
        self._rows_at = self._reach_at + 8 * len(self._common.reach)
        self._control_at = self._rows_at + table_bytes
        try:
            self._own = self.space.alloc(self._control_at + CONTROL_BYTES)
        except OutOfMemory:
            return 0
        page = super()._make_page()
        if not page:
            self._free_words()
        return page

    def _fill_words(self) -> None:
        """A member's own words, in the memory of its GPU; behind them the tables, and a copy of the control page,
        which a kernel reads for addresses alone."""
        segments, size = self.space.segments, self.size
        sources_at, reach_at, control_at = self._sources_at, self._reach_at, self._control_at
        base = self.address = segments.pointer(self._own)
        image = np.zeros((control_at + CONTROL_BYTES) // 8, np.int64)
        image[layout.TEAM_CONTROL] = base + control_at
        image[layout.TEAM_SIZE], image[layout.TEAM_POSITION] = size, self.position
        image[layout.TEAM_PAGES] = base + TABLES_AT
        image[layout.TEAM_SOURCES] = base + sources_at
        image[layout.TEAM_REACH] = base + reach_at
        image[layout.TEAM_HALF_BYTES] = self._common.half_bytes
        image[layout.TEAM_EAGER_BYTES], image[layout.TEAM_TWO_SHOT_BYTES] = EAGER_BYTES, TWO_SHOT_BYTES
        image[layout.TEAM_STREAM_BYTES] = NEVER
        image[layout.TEAM_SHIFT] = base - self._own
        image[TABLES_AT // 8 : sources_at // 8] = [segments.pointer(page) for page in self._pages]
        image[reach_at // 8 : self._rows_at // 8] = self._common.reach
        image[control_at // 8 :] = self.space.page.words[: CONTROL_BYTES // 8]
        self._gpu.put(self._own, image)
        self._gpu.synchronize()
        self._start, self._go_on = self._begin, self._continue

    def _free_words(self) -> None:
        self.space.free(self._own)

    def _begin(
        self,
        team: int,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int,
        reduction: Any,
        element_bytes: int,
        rows: int,
        epoch: int,
        slice_ns: int,
    ) -> int:
        self._stream: int
        self._stream, *others = getattr(self._followed, "streams", (DEFAULT_STREAM,))
        self._followed.streams = (DEFAULT_STREAM,)
        for other in others:
            self._gpu.synchronize(other, self.timeout_s)
        self._kernel = reduction or operation_kernel()
        num_bytes = length * (self.size if flags & (layout.PERSONAL | layout.COLLECTS) else 1)
        if rows:
            table = words_at(rows, layout.TABLE_ROW_WORDS * self.size).reshape(self.size, -1)
            self._gpu.put(self._own + self._rows_at, table, self._stream)
            num_bytes = int(table[:, layout.TABLE_SEND].sum())
        self._num_lanes = _lanes_for(num_bytes)
        where = self.address + self._rows_at if rows else 0
        return self._launch(1, flags, call, src, dst, length, root, element_bytes, where, slice_ns)

    def _continue(self, team: int, epoch: int, slice_ns: int) -> int:
        if self.space.page.words[CONTROL_STOP]:
            return status.INTERRUPTED
        return self._launch(0, 0, 0, 0, 0, 0, 0, 1, 0, slice_ns)

    def _launch(self, *arguments: int) -> int:
        """The operation's status after a slice of time at most."""
        num_blocks, num_lanes = self._num_lanes
        given = (self.address, *arguments)
        self._gpu.launch(self._kernel, num_blocks, num_lanes, given, self._stream, num_blocks > 1)
        self._gpu.synchronize(self._stream, self.timeout_s)
        return self._word(layout.TEAM_CODE)

    def _word(self, index: int) -> int:
        return int(self._read_words(self._own + 8 * index, 1)[0])

    def _read_words(self, address: int, num_words: int) -> np.ndarray:
        if self.space.reaches_by_cpu(address, 8 * num_words):
            return super()._read_words(address, num_words)
        words = np.empty(num_words, np.int64)
        self._gpu.get(words, address)
        self._gpu.synchronize()
        return words

    def _zero(self, address: int, num_bytes: int) -> None:
        if self.space.reaches_by_cpu(address, num_bytes):
            super()._zero(address, num_bytes)
            return
        zeros = np.zeros(num_bytes, np.uint8)
        self._gpu.put(address, zeros)
        self._gpu.synchronize()


def _lanes_for(num_bytes: int) -> tuple[int, int]:
    """(blocks, lanes of each) that move `num_bytes`."""
    lanes = min(-(-num_bytes // BYTES_PER_LANE + 1), MOST_LANES)
    return min(max(num_bytes // BYTES_PER_BLOCK, 1), MOST_BLOCKS), -(
        -max(lanes, 1) // WARP_LANES
    ) * WARP_LANES
