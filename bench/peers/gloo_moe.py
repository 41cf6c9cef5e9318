"""A mixture of experts over gloo, as it is commonly written: sorted rows, all_to_all_single, and index_add_."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..harness.moe import NUM_EXPERTS, NUM_TOPK, Tokens
from ..harness.stats import Samples
from .gloo import Gloo

ROUNDS_OF_TRIAL = 3


class Moe(Gloo):
    """Dispatch and combine. `context` is the torch.distributed module; every rank gives its own times."""

    def __init__(self, context: Any, num_tokens: int, num_columns: int, imbalance: float):
        import torch

        self.torch, self.dist, self.errors = torch, context, 0
        self.rank, self.num_ranks = context.get_rank(), context.get_world_size()
        self.trial_rounds = ROUNDS_OF_TRIAL
        self.tokens = Tokens(self.rank, num_tokens, num_columns, imbalance)
        self.x, self.choices = torch.from_numpy(self.tokens.x), torch.from_numpy(self.tokens.choices)
        self._pin_if_faster()
        self.errors = 0

    def block(self, num_samples: int) -> Samples:
        """Seconds of a dispatch and a combine, without what the experts do between them."""
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            self.tokens.renew()
            self.dist.barrier()
            begin = time.perf_counter()
            rows, experts, way = self._dispatch()
            dispatched = time.perf_counter() - begin
            rows *= (experts + 1)[:, None]
            self.dist.barrier()
            begin = time.perf_counter()
            sums = self._combine(rows, way)
            samples[sample] = dispatched + time.perf_counter() - begin
            self.errors += self.tokens.num_wrong(sums.numpy())
        return samples

    def _dispatch(self) -> tuple[Any, Any, tuple[Any, list[int], list[int]]]:
        """(rows, their experts, the way that they came): grouped by the rank that they are from, then by expert."""
        torch = self.torch
        experts, order = self.choices.reshape(-1).sort(stable=True)
        tokens = order // NUM_TOPK
        sent = torch.bincount(experts // (NUM_EXPERTS // self.num_ranks), minlength=self.num_ranks)
        taken = torch.empty_like(sent)
        self.dist.all_to_all_single(taken, sent)
        num_sent, num_taken = sent.tolist(), taken.tolist()
        rows = torch.empty(sum(num_taken), self.x.shape[1])
        self.dist.all_to_all_single(rows, self.x.index_select(0, tokens), num_taken, num_sent)
        theirs = torch.empty(sum(num_taken), dtype=torch.int64)
        self.dist.all_to_all_single(theirs, experts, num_taken, num_sent)
        return rows, theirs, (tokens, num_sent, num_taken)

    def _combine(self, rows: Any, way: tuple[Any, list[int], list[int]]) -> Any:
        tokens, num_sent, num_taken = way
        back = self.torch.empty(len(tokens), self.x.shape[1])
        self.dist.all_to_all_single(back, rows, num_sent, num_taken)
        return self.torch.zeros_like(self.x).index_add_(0, tokens, back)
