"""gloo as a peer, through torch.distributed as its users call it.

gloo has threads of its own: some machines run it faster pinned, some unpinned, and it gets the better of
the two, found before the first block.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from umem import config, limits
from umem.errors import Waived

from ..harness.side import PartSide
from ..harness.wire import Part, serve
from . import check_world

if TYPE_CHECKING:
    from ..harness.case import Point, Side
    from ..harness.stats import Samples
    from ..harness.wire import Group
    from ..harness.workers import Workers

OPERATIONS = ("message", "reduce", "exchange")
_FIX = "pip install 'umem[torch]'"
TRIAL_ROUNDS = 20


def group(workers: Workers) -> Group:
    """The processes that gloo runs in."""
    num_ranks = workers.options.ranks

    def command(path: str) -> list[str]:
        check_world(workers, "gloo")
        if find_spec("torch") is None:
            raise Waived(f"no torch here. Fix: {_FIX}")
        return [sys.executable, "-m", "umem.bench.peers.gloo", path, str(num_ranks)]

    return workers.group(("gloo", num_ranks), f"gloo group of {num_ranks} ranks", command, num_ranks)


def side(workers: Workers, operation: str, point: Point) -> Side:
    """gloo at `point`."""
    part = Part(group(workers), "umem.bench.peers.gloo:Gloo", operation=operation, num_bytes=point.num_bytes)
    return PartSide("gloo", "message", part, "block", peer="gloo", transport="tcp")


class Gloo:
    """One operation at one size, in every rank. `context` is the torch.distributed module."""

    def __init__(self, context: Any, operation: str, num_bytes: int):
        import torch

        self.dist, self.operation = context, operation
        self.rank, self.num_ranks = context.get_rank(), context.get_world_size()
        self.errors = 0
        self.trial_rounds = TRIAL_ROUNDS
        count = num_bytes * self.num_ranks if operation == "exchange" else num_bytes
        self.src = torch.full((count,), self.rank + 1, dtype=torch.uint8)
        self.dst = torch.zeros(count, dtype=torch.uint8)
        if operation == "reduce":
            self.dst = torch.zeros(max(num_bytes // 4, 1))
        self._run = getattr(self, "_" + operation)
        self._pin_if_faster()

    def block(self, num_samples: int) -> Samples | None:
        """Seconds per operation, at rank 0; each is timed."""
        samples = np.empty(num_samples)
        self.dist.barrier()
        for sample in range(num_samples):
            if self.operation == "reduce":
                self.dst.fill_(float(self.rank + 1))
            begin = time.perf_counter()
            self._run()
            samples[sample] = time.perf_counter() - begin
        self._check()
        if self.operation == "message":
            samples /= 2
        return samples if self.rank == 0 else None

    def _message(self) -> None:
        if self.rank == 0:
            self.dist.send(self.src, 1)
            self.dist.recv(self.dst, 1)
        elif self.rank == 1:
            self.dist.recv(self.dst, 0)
            self.dist.send(self.src, 0)

    def _reduce(self) -> None:
        self.dist.all_reduce(self.dst)

    def _exchange(self) -> None:
        self.dist.all_to_all_single(self.dst, self.src)

    def _check(self) -> None:
        if self.operation == "message":
            right = self.rank > 1 or bool((self.dst == 2 - self.rank).all())
        elif self.operation == "reduce":
            right = bool((self.dst == self.num_ranks * (self.num_ranks + 1) / 2).all())
        else:
            parts = self.dst.reshape(self.num_ranks, -1)
            right = all(bool((parts[rank] == rank + 1).all()) for rank in range(self.num_ranks))
        self.errors += not right

    def _pin_if_faster(self) -> None:
        cores = limits.usable_cores()
        if self.num_ranks > len(cores):
            return
        free_s = self._trial_s(cores)
        pinned_s = self._trial_s([cores[self.rank]])
        if free_s < pinned_s:
            set_cores(cores)

    def _trial_s(self, cores: list[int]) -> float:
        """Rank 0's time for some blocks on `cores`, which every rank learns."""
        import torch

        set_cores(cores)
        self.block(2)
        begin = time.perf_counter()
        self.block(self.trial_rounds)
        elapsed = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        self.dist.broadcast(elapsed, 0)
        return float(elapsed[0])

    def num_errors(self) -> int:
        """Wrong data since the last call."""
        found, self.errors = self.errors, 0
        return found

    def close(self) -> None:
        """Nothing is held."""


def set_cores(cores: list[int]) -> None:
    """Let every thread of this process run on `cores` and nowhere else."""
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def main() -> None:
    """Start `num_ranks` workers: `python -m umem.bench.peers.gloo SOCKET NUM_RANKS`."""
    import torch.distributed as dist
    from torch import multiprocessing

    path, num_ranks = sys.argv[1], int(sys.argv[2])
    assert dist.is_available()
    multiprocessing.spawn(_work, args=(path, num_ranks), nprocs=num_ranks)


def _work(rank: int, path: str, num_ranks: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    config.apply({"GLOO_SOCKET_IFNAME": "lo"})
    dist.init_process_group("gloo", init_method=f"file://{path}-gloo", rank=rank, world_size=num_ranks)
    serve(path, rank, dist)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
