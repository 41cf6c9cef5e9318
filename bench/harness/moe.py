"""The work of the benchmark's mixture of experts: tokens, what they choose, and what must come back for each.

Expert e multiplies a row by e + 1. All numbers are small and whole, so that sums are exact in any order.
"""

from __future__ import annotations

import numpy as np

NUM_TOPK, NUM_EXPERTS = 4, 16


class Tokens:
    """The tokens of one rank: `x` [num_tokens, num_columns] float32, and `choices` [num_tokens, NUM_TOPK].

    A token chooses distinct experts. With `imbalance` s expert e is as popular as 1 / (e + 1) ** s: at 0 all alike, at
    1 the first rank of two has twice the rows of the second.
    """

    def __init__(self, rank: int, num_tokens: int, num_columns: int, imbalance: float):
        random = np.random.default_rng((rank, num_tokens))
        self.x = random.integers(1, 8, (num_tokens, num_columns)).astype(np.float32)
        popularity = -imbalance * np.log(np.arange(1, NUM_EXPERTS + 1))
        # The largest of independent Gumbel variables: a draw without replacement.
        keys = popularity + random.gumbel(size=(num_tokens, NUM_EXPERTS))
        self.choices = np.argsort(-keys, axis=1)[:, :NUM_TOPK].astype(np.int64)
        self._factors = (self.choices + 1).sum(axis=1, keepdims=True).astype(np.float32)

    def renew(self) -> None:
        """Write new tokens."""
        self.x *= -1

    def num_wrong(self, sums: np.ndarray) -> int:
        """How many of the tokens' sums are not those of their experts."""
        return int((sums != self.x * self._factors).any(axis=1).sum())
