"""Pooled look-up: rank 0 sums rows of a table that lives at rank 1, by loads, at the home, or by messages.

`num_rows` rows of 64 float32 are summed into one. load_store reads them where they are; near ships the
indices to the home's agent, which sums there; message asks the home's user code, which waits in a compiled
loop; staged has the home pack the rows and send them all, and sums here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from umem.kernels.status import OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from . import workload_loops as loops
from .base import SpacePart
from .message import TAG, UcxPart
from .workload_loops import NUM_COLUMNS, ROW_BYTES

_HOME = 1
TABLE_BYTES = 64 << 20  # larger than the caches of most cores
BATCH_ROWS = 4096
_NUM_REQUESTS = 64  # different ones, used in turn
_PREFETCH_ROWS = 64


class Request:
    """The table and the requests, the same for every side."""

    def __init__(self, part: SpacePart, num_rows: int, seed: int):
        self.num_rows = num_rows
        self.table = part.shared(TABLE_BYTES, home=_HOME)
        num_table_rows = TABLE_BYTES // ROW_BYTES
        random = np.random.default_rng(seed)
        self.indices = random.integers(0, num_table_rows, (_NUM_REQUESTS, num_rows))
        self.expected = (self.indices % 1000).sum(axis=1).astype(np.float32)
        self.offsets = np.array([0, num_rows])
        self.out = np.zeros((_NUM_REQUESTS, NUM_COLUMNS), np.float32)
        if part.rank == _HOME:
            values = (np.arange(num_table_rows) % 1000).astype(np.float32)
            self.table.write(np.repeat(values, NUM_COLUMNS).view(np.uint8))
        part.space.barrier()

    def is_right(self, num_done: int) -> bool:
        """Whether the first `num_done` requests have their sums; clears them."""
        done = min(num_done, _NUM_REQUESTS)
        right = bool((self.out[:done] == self.expected[:done, None]).all())
        self.out[:] = 0
        return right


class Mapped(SpacePart):
    """By loads from the home's memory; a sample is the mean of a batch of requests."""

    def __init__(self, space: Space, num_rows: int, seed: int):
        super().__init__(space)
        self.request = Request(self, num_rows, seed)
        self.batch = max(1, min(_NUM_REQUESTS, BATCH_ROWS // num_rows))

    def load_store(self, num_samples: int) -> Samples | None:
        """umem's kernel over the peer's table, request after request."""
        return self._run(num_samples, loops.gather_sum_each.compiled, self.request.offsets.ctypes.data)

    def c(self, num_samples: int) -> Samples | None:
        """C over the same table, all requests of a batch in one call."""
        function = hardware.load().gather_sum_f32

        def all_at_once(out: int, table: int, indices: int, distance: int, num_rows: int, batch: int) -> None:
            function(out, table, indices, batch, num_rows, ROW_BYTES, distance)

        return self._run(num_samples, all_at_once, _PREFETCH_ROWS)

    def _run(self, num_samples: int, sums: Callable[..., object], fourth: int) -> Samples | None:
        if not self.is_timed:
            return None
        request = self.request
        pointers = (request.out.ctypes.data, request.table.address, request.indices.ctypes.data, fourth)

        def batch() -> int:
            sums(*pointers, request.num_rows, self.batch)
            return OK

        samples = self.alone(num_samples, self.batch, batch)
        self.expect(request.is_right(self.batch))
        return samples


class Asked(UcxPart):
    """By messages to the home's user code; each request is timed."""

    def __init__(self, space: Space, num_rows: int, seed: int):
        super().__init__(space)
        self.request = Request(self, num_rows, seed)
        self.room = np.zeros(num_rows * (8 + 2 * ROW_BYTES), np.uint8)
        self.words = np.concatenate([[0, num_rows], np.arange(num_rows)])  # offsets, then rows in order
        self.sum = np.zeros(NUM_COLUMNS, np.float32)

    def message(self, num_samples: int) -> Samples | None:
        """The home sums and sends the sum."""
        return self._run(num_samples, loops.ask_sums, loops.serve_sums)

    def staged(self, num_samples: int) -> Samples | None:
        """The home packs the rows and sends them; they are summed here."""
        return self._run(num_samples, loops.ask_rows, loops.serve_rows)

    def near(self, num_samples: int) -> Samples | None:
        """The home's agent sums; asked from Python, one request at a time."""
        if not self.is_timed:
            return None
        ask, request = self.space.near.gather_sum, self.request
        table, num_table_rows = request.table.address, TABLE_BYTES // ROW_BYTES
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            number = sample % _NUM_REQUESTS
            out, indices = request.out[number : number + 1], request.indices[number]
            begin = time.perf_counter_ns()
            ask(out, table, num_table_rows, ROW_BYTES, request.offsets, indices)
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
        self.expect(request.is_right(num_samples))
        return samples

    def _run(self, num_samples: int, ask: Callable[..., int], serve: Callable[..., int]) -> Samples | None:
        self.space.barrier()
        if not self.takes_part:
            return None
        asks = self.rank != _HOME
        request = self.request
        buffers = (
            (request.out.ctypes.data, request.indices.ctypes.data)
            if asks
            else (self.sum.ctypes.data, self.table_pointer())
        )

        def loop(num_rounds: int, times: int) -> int:
            code = (ask if asks else serve)(
                self.port.address,
                self.endpoint,
                self.other,
                *buffers,
                request.num_rows,
                _NUM_REQUESTS,
                num_rounds,
                self.room.ctypes.data,
                self.words.ctypes.data,
                TAG,
                times,
                self.deadline_ns(),
            )
            return int(code)

        samples = self.rounds(num_samples, self.warm_rounds(request.num_rows * ROW_BYTES), loop)
        if not asks:
            return None
        self.expect(request.is_right(num_samples))
        return samples

    def table_pointer(self) -> int:
        """The home's pointer to its own table."""
        return self.space.pointer(self.request.table.address)
