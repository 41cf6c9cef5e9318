"""Pooled look-ups of every rank in a table that is spread over them; the same sums by C and by torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from umem.collectives import Team
from umem.embedding import EmbeddingTable
from umem.space.space import Space

from ...harness import hardware
from ...harness.stats import Samples
from ..base import SpacePart

NUM_TABLE_ROWS, BAGS_OF_BATCH, POOLING, NUM_ID_BATCHES = 1_000_000, 4096, 20, 4
C_PREFETCH_ROWS = 64
ROWS_OF_UPDATE = 100_000


class Bags(SpacePart):
    """A batch of bags of uniform ids for each rank, from one of several in turn. Every rank gives its own times."""

    def __init__(self, space: Space, num_columns: int, seed: int):
        super().__init__(space)
        torch.set_num_threads(1)
        self.num_columns = num_columns
        self.team = Team(space)
        self.table = EmbeddingTable(self.team, NUM_TABLE_ROWS, num_columns)
        # Whole numbers, whose sums have the same bits in any order.
        values = np.arange(NUM_TABLE_ROWS, dtype=np.float32) % 1000
        self.local = np.repeat(values[:, None], num_columns, axis=1)
        if self.rank == 0:
            for first in range(0, NUM_TABLE_ROWS, ROWS_OF_UPDATE):
                rows = self.local[first : first + ROWS_OF_UPDATE]
                self.table.update_rows(np.arange(first, first + len(rows)), rows)
        made = np.random.default_rng([seed, self.rank])
        self.ids = made.integers(0, NUM_TABLE_ROWS, (NUM_ID_BATCHES, BAGS_OF_BATCH * POOLING))
        self.offsets = np.arange(BAGS_OF_BATCH) * POOLING
        self.wanted = values[self.ids].reshape(NUM_ID_BATCHES, BAGS_OF_BATCH, POOLING).sum(2)
        self.out = np.empty((BAGS_OF_BATCH, num_columns), np.float32)
        self.torch_arguments = [torch.from_numpy(ids) for ids in self.ids]
        self.torch_table, self.torch_offsets = torch.from_numpy(self.local), torch.from_numpy(self.offsets)
        self.team.barrier()

    def load_store(self, num_samples: int) -> Samples:
        """The table's own call, from Python, by all ranks at once."""
        return self._run(num_samples, lambda batch: self.table.pool(self.ids[batch], self.offsets))

    def c(self, num_samples: int) -> Samples:
        """C over a copy of the whole table in each rank, by all ranks at once."""
        function = hardware.load().gather_sum_f32

        def run(batch: int) -> np.ndarray:
            pointers = self.out.ctypes.data, self.local.ctypes.data, self.ids[batch].ctypes.data
            function(*pointers, BAGS_OF_BATCH, POOLING, 4 * self.num_columns, C_PREFETCH_ROWS)
            return self.out

        return self._run(num_samples, run)

    def torch(self, num_samples: int) -> Samples:
        """F.embedding_bag over a copy in rank 0, which does the batches of all ranks with a thread for each."""
        num_ranks = self.space.num_ranks if self.rank == 0 else 0
        pinned = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.space.world.usable_cores)  # which torch's threads inherit
        torch.set_num_threads(max(num_ranks, 1))

        def run(batch: int) -> np.ndarray | None:
            result = None
            for turn in range(num_ranks):
                ids = self.torch_arguments[(batch - turn) % NUM_ID_BATCHES]
                result = F.embedding_bag(ids, self.torch_table, self.torch_offsets, mode="sum")
            return None if result is None else result.numpy()

        samples = self._run(num_samples, run, last=num_ranks - 1)
        torch.set_num_threads(1)
        os.sched_setaffinity(0, pinned)
        return samples

    def _run(self, num_samples: int, run: Callable[[int], np.ndarray | None], last: int = 0) -> Samples:
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            batch = sample % NUM_ID_BATCHES
            self.team.barrier()
            begin = time.perf_counter_ns()
            out = run(batch)
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
            if out is not None:
                wanted = self.wanted[(batch - last) % NUM_ID_BATCHES]
                self.expect(bool((out == wanted[:, None]).all()))
        self.team.barrier()
        return samples

    def close(self) -> None:
        """Give the memory back. Collective."""
        self.table.close()
        self.team.close()
        super().close()
