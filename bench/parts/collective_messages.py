"""A rank's part of a collective operation by messages."""

from __future__ import annotations

import numpy as np

from umem import limits
from umem.collectives import Team
from umem.collectives.message import MessageTeam
from umem.kernels.collective import layout
from umem.space.space import Space

from ..harness.collective import Operation
from ..harness.stats import Samples
from .base import SpacePart, check
from .collective import call_words
from .collective_messages_loops import by_messages
from .touch import Plan, operations_in_sample


class Message(SpacePart):
    """A team of all ranks that sends messages, its buffers private. Every rank gives its own times."""

    def __init__(self, space: Space, operation: str, num_bytes: int, dtype: str, op: str, in_place: bool):
        super().__init__(space)
        self.operation = what = Operation(
            operation, num_bytes, space.num_ranks, space.rank, dtype, op, in_place
        )
        self.buffers = [np.zeros(max(num_bytes, 8), np.uint8) for _ in range(what.num_buffers)]
        src, dst = what.places([buffer.ctypes.data for buffer in self.buffers])
        self.plan = Plan(what, src, dst)
        self.batch = operations_in_sample(what, space.num_ranks <= len(limits.usable_cores()))
        self.teams = [Team(space, semantics="message") for _ in range(2)]  # one for barriers
        self.run, self.gate = (
            _ready(team, words)
            for team, words in zip(
                self.teams, (call_words(what, src, dst), [layout.BARRIER] * 2 + [0] * 5 + [1]), strict=True
            )
        )

    def message(self, num_samples: int) -> Samples:
        """Operations of the team's schedule."""
        times = np.zeros(num_samples, np.int64)
        self.space.barrier()
        code = by_messages.compiled(
            self.run,
            self.gate,
            self.plan.address,
            num_samples,
            self.batch,
            times.ctypes.data,
            0,
            self.deadline_ns(),
        )
        check(code)
        return np.multiply(times, 1e-9)

    def num_errors(self) -> int:
        """Wrong words since the last call."""
        return super().num_errors() + self.plan.num_wrong()

    def close(self) -> None:
        """Close the teams. Collective."""
        for team in self.teams:
            team.close()
        super().close()


def _ready(team: Team, words: list[int]) -> int:
    """Address of the words of a run, ready for one call; `words` are those of collective.call_words."""
    part = team._part
    assert isinstance(part, MessageTeam)
    flags, call, src, dst, length, root, combining, element_bytes = words
    part.prepare(flags, call, src, dst, length, root, combining, element_bytes, 0)
    return part.address
