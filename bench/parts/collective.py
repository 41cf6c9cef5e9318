"""A rank's part of a collective operation: by a team, and the floor under it."""

from __future__ import annotations

import numpy as np

from umem import limits
from umem.collectives import Team
from umem.collectives.buffers import ELEMENT_NAMES, reduction_of
from umem.kernels.collective import layout
from umem.kernels.collective.reductions import reduction
from umem.kernels.data.copy import default_stream_bytes
from umem.kernels.page.signal import cpu_ping_pong
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.collective import (
    REDUCING,
    ROOT,
    Operation,
)
from ..harness.stats import Samples
from . import collective_loops as loops
from .base import SpacePart, check
from .touch import Plan, operations_in_sample

FLAGS_OF = {
    "all_reduce": layout.ALL_REDUCE,
    "all_gather": layout.ALL_GATHER,
    "reduce_scatter": layout.REDUCE_SCATTER,
    "broadcast": layout.BROADCAST,
    "all_to_all": layout.ALL_TO_ALL,
    "barrier": layout.BARRIER,
}
LINE_ROUNDS = 5000
NEVER = 1 << 62


class Mapped(SpacePart):
    """A team of all ranks, its buffers in the space. Every rank gives its own times."""

    def __init__(self, space: Space, operation: str, num_bytes: int, dtype: str, op: str, in_place: bool):
        super().__init__(space)
        self.operation = Operation(operation, num_bytes, space.num_ranks, space.rank, dtype, op, in_place)
        self.team = Team(space)
        self.buffers = [self.allocate(max(num_bytes, 8)) for _ in range(self.operation.num_buffers)]
        src, dst = self.operation.places(self.buffers)
        self.plan = Plan(self.operation, src, dst)
        has_cores = space.num_ranks <= len(limits.usable_cores())
        self.batch = operations_in_sample(self.operation, has_cores)
        self.call = np.array([self.team.address, *call_words(self.operation, src, dst)], np.int64)
        self.line = self.shared(128, home=min(1, space.num_ranks - 1)).address
        self.moves, self.move_bytes = self._moves()
        unstreamed = num_bytes < default_stream_bytes()
        self.stream_bytes = NEVER if unstreamed else 0

    def allocate(self, num_bytes: int) -> int:
        """Address of memory for a buffer."""
        return self.space.alloc(num_bytes, align=4096)

    def give_back(self, buffer: int) -> None:
        """Free what `allocate` gave."""
        self.space.free(buffer)

    def load_store(self, num_samples: int) -> Samples:
        """Operations of the team's own kernels."""
        times = np.zeros(num_samples, np.int64)
        self.space.barrier()
        code = loops.by_team.compiled(
            self.call.ctypes.data,
            self.team.address,
            self.plan.address,
            num_samples,
            self.batch,
            times.ctypes.data,
            self.space.page.epoch,
            self.deadline_ns(),
        )
        check(code)
        return np.multiply(times, 1e-9)

    def stream(self, num_samples: int) -> Samples:
        """As many bytes of the same memory, read and written without synchronisation."""
        times = np.zeros(num_samples, np.int64)
        self.space.barrier()
        code = loops.by_moves.compiled(
            self.team.address,
            self.moves.ctypes.data,
            len(self.moves),
            self.move_bytes,
            self.stream_bytes,
            self.plan.address,
            num_samples,
            times.ctypes.data,
            self.space.page.epoch,
            self.deadline_ns(),
        )
        check(code)
        self.plan.num_wrong()  # it moves bytes, and does not do the operation
        return np.multiply(times, 1e-9)

    def line_there_and_back(self, num_samples: int) -> Samples | None:
        """A line that ranks 0 and 1 store and load in turn; a sample is the mean of LINE_ROUNDS round trips."""
        samples = self.timed(num_samples, LINE_ROUNDS, self._ping_pong, self._reset_line)
        return samples if self.is_timed else None

    def num_errors(self) -> int:
        """Wrong words and lost round trips since the last call."""
        return super().num_errors() + self.plan.num_wrong()

    def close(self) -> None:
        """Free the part's memory. Collective."""
        self.team.close()
        for buffer in self.buffers:
            self.give_back(buffer)
        super().close()

    def _ping_pong(self) -> int:
        if self.rank < 2:
            done = cpu_ping_pong.compiled(self.line, self.rank, LINE_ROUNDS, hardware.MAX_POLLS)
            self.expect(done == LINE_ROUNDS)
        return OK

    def _reset_line(self) -> None:
        self.space.barrier()
        if self.rank == 0:
            self.space.store(self.line, 0, "int64")

    def _moves(self) -> tuple[np.ndarray, int]:
        """This rank's rows of what the operation must move, and the bytes of each."""
        mine = np.array(self.operation.places(self.buffers), np.int64)
        everyone = np.empty((self.space.num_ranks, 2), np.int64)
        self.team.all_gather(everyone, mine)
        rows, num_bytes = moves_of(self.operation, everyone.tolist())
        return np.array(rows, np.int64).reshape(-1, loops.MOVE_WORDS), num_bytes


def call_words(operation: Operation, src: int, dst: int) -> list[int]:
    """What kernels/collective/run.py takes, by the words OF_TEAM_* behind the team."""
    flags = FLAGS_OF[operation.name]
    root = ROOT
    if operation.name == "barrier":
        return [flags, flags, 0, 0, 0, 0, 0, 1]
    type_index = ELEMENT_NAMES.index(operation.dtype)
    if operation.name in REDUCING:
        kind, element = reduction_of(operation.op, type_index)
        word = layout.call_word(flags, kind, type_index, root)
        function = reduction(kind, element).address
        return [flags, word, src, dst, operation.block_bytes, root, function, operation.item_bytes]
    word = layout.call_word(flags, 0, type_index, root)
    return [flags, word, src, dst, operation.block_bytes, root, 0, 1]


def moves_of(operation: Operation, places: list[list[int]]) -> tuple[list[tuple[int, int, int]], int]:
    """Rows (kind, dst, src), and the bytes of each, that one rank must move where the ranks share all work.

    `places` are the ranks' addresses of input and output. Every input is read once, every output written once.
    """
    rank, ranks = operation.rank, range(operation.num_ranks)
    others = [other for other in ranks if other != rank]
    src, dst = places[rank]
    part = operation.num_bytes // operation.num_ranks // 8 * 8
    at = rank * part
    match operation.name, operation.in_place:
        case "all_reduce", False:
            rows = [(loops.COPY, places[r][1] + at, places[r][0] + at) for r in ranks]
        case "all_reduce", True:
            rows = [(loops.UPDATE, places[r][1] + at, 0) for r in ranks]
        case "all_gather", in_place:
            rows = [(loops.COPY, places[r][1] + at, src) for r in (others if in_place else ranks)]
        case "reduce_scatter", in_place:
            own = (loops.UPDATE, dst, 0) if in_place else (loops.COPY, dst, src + at)
            rows = [own, *((loops.READ, 0, places[r][0] + at) for r in others)]
        case "broadcast", _:
            rows = [(loops.COPY, places[r][1] + at, places[ROOT][0] + at) for r in ranks if r != ROOT]
        case "all_to_all", _:
            rows = [(loops.COPY, dst + r * part, places[r][0] + at) for r in ranks]
        case _:
            rows = []
    return rows, part
