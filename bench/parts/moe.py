"""A rank's part of a mixture of experts: its tokens' rows to the experts and back by umem.moe."""

from __future__ import annotations

import time

import numpy as np

from umem import moe
from umem.collectives import Team
from umem.space.space import Space

from ..harness.moe import NUM_EXPERTS, Tokens
from ..harness.stats import Samples
from .base import SpacePart


class Moe(SpacePart):
    """Dispatch and combine. Every rank gives its own times."""

    def __init__(self, space: Space, num_tokens: int, num_columns: int, imbalance: float, semantics: str):
        super().__init__(space)
        self.tokens = Tokens(space.rank, num_tokens, num_columns, imbalance)
        self.team = Team(space, semantics=semantics)
        self.exchange = moe.Exchange(self.team, semantics=semantics)
        self.first_expert = space.rank * (NUM_EXPERTS // space.num_ranks)
        self.num_wrong = 0

    def dispatch_and_combine(self, num_samples: int) -> Samples:
        """Seconds of a dispatch and a combine, without what the experts do between them."""
        samples = np.empty(num_samples)
        tokens = self.tokens
        for sample in range(num_samples):
            tokens.renew()
            self.team.barrier()
            begin = time.perf_counter()
            rows, expert, _, _, handle = self.exchange.dispatch(
                tokens.x, tokens.choices, num_experts=NUM_EXPERTS
            )
            dispatched = time.perf_counter() - begin
            rows *= (expert + self.first_expert + 1)[:, None].astype(np.float32)
            self.team.barrier()
            begin = time.perf_counter()
            sums, _ = self.exchange.combine(rows, handle)
            samples[sample] = dispatched + time.perf_counter() - begin
            self.num_wrong += tokens.num_wrong(sums)
        return samples

    def num_errors(self) -> int:
        """Tokens with a wrong sum since the last call."""
        found, self.num_wrong = self.num_wrong, 0
        return found

    def close(self) -> None:
        """Give the memory back. Collective."""
        self.exchange.close()
        self.team.close()
        super().close()
