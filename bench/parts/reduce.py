"""All-reduce of float32: by a team that maps every rank's block, by messages and a sum, at the homes."""

from __future__ import annotations

import numpy as np

from umem.collectives import Team
from umem.kernels.collective.layout import ALL_REDUCE, call_word
from umem.kernels.collective.reductions import reduction
from umem.kernels.data.reduce import SUM
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from . import workload_loops as loops
from .base import SpacePart
from .message import UcxPart

CALL = call_word(ALL_REDUCE, SUM, 0, 0)  # the first element type is float32
MAX_BATCH = 100
BATCH_BYTES = 1 << 20


class Mapped(SpacePart):
    """A team of all ranks reduces blocks that lie in the space; a sample is a batch's mean."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_elements = max(num_bytes // 4, 1)
        self.batch = max(2, min(MAX_BATCH, BATCH_BYTES // num_bytes))
        self.team = Team(space)
        self.src, self.dst = (space.empty(self.num_elements, "float32") for _ in range(2))
        self.src.numpy()[:] = self.rank + 1
        self.reduction = reduction(SUM, "f32").address

    def load_store(self, num_samples: int) -> Samples | None:
        """Rounds in batches."""
        samples = self.timed(num_samples, self.batch, self._run)
        num_ranks = self.space.num_ranks
        out = self.dst.numpy()
        self.expect(bool((out == num_ranks * (num_ranks + 1) / 2).all()))
        out[:] = 0
        return samples

    def _run(self) -> int:
        code = loops.reduce_by_team(
            self.team.address,
            CALL,
            self.dst.address,
            self.src.address,
            4 * self.num_elements,
            self.reduction,
            self.batch,
            self.space.page.epoch,
            self.deadline_ns(),
        )
        return int(code)


class Message(UcxPart):
    """Ranks 0 and 1 send each other their blocks and sum; each round is timed."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_elements = max(num_bytes // 4, 1)
        self.mine = np.full(self.num_elements, self.rank + 1, np.float32)
        self.theirs = np.zeros(self.num_elements, np.float32)
        self.out = np.zeros(self.num_elements, np.float32)
        self.sources = np.array([self.mine.ctypes.data, self.theirs.ctypes.data])

    def message(self, num_samples: int) -> Samples | None:
        """Rounds."""
        self.space.barrier()
        if not self.takes_part:
            return None
        samples = self.rounds(num_samples, self.warm_rounds(4 * self.num_elements), self._reduce)
        self.expect(bool((self.out == 3).all()))
        self.out[:] = 0
        return samples if self.is_timed else None

    def _reduce(self, num_rounds: int, times: int) -> int:
        code = loops.reduce_by_messages(
            self.port.address,
            self.endpoint,
            self.other,
            self.out.ctypes.data,
            self.mine.ctypes.data,
            self.theirs.ctypes.data,
            self.sources.ctypes.data,
            self.num_elements,
            self.out_tag,
            self.in_tag,
            num_rounds,
            times,
            self.deadline_ns(),
        )
        return int(code)


class Near(SpacePart):
    """Ranks 0 and 1 ship their blocks to each other's agents, which add them; asked from Python.

    A sum is made in one of two places in turn: while one is added to, the other gets this rank's block.
    """

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.block = np.full(max(num_bytes // 4, 1), self.rank + 1, np.float32)
        places = [[self.shared(self.block.nbytes, home=rank) for rank in (0, 1)] for _ in range(2)]
        self.takes_part = self.rank < 2
        if self.takes_part:
            self.remote = [place[1 - self.rank].address for place in places]
            self.sums = [place[self.rank].numpy().view(np.float32) for place in places]
            self.sums[0][:] = self.block
        self.turn = 0

    def near(self, num_samples: int) -> Samples | None:
        """Rounds, each timed."""
        samples = self.timed(num_samples, 1, self._run)
        if self.takes_part:
            self.expect(bool((self.sums[1 - self.turn] == 3).all()))
        return samples

    def _run(self) -> int:
        if self.takes_part:
            self.space.near.reduce(self.remote[self.turn], self.block, "f32")
            self.sums[1 - self.turn][:] = self.block
        self.turn = 1 - self.turn
        self.space.barrier()
        return OK
