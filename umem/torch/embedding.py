"""torch.nn.Embedding and EmbeddingBag over tables that are spread over the members of a team.

Gradients are sparse and stay with the modules until `SparseOptimizer.step`, which takes them to the rows' homes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..embedding import EmbeddingTable, training
from ..embedding.bags import Bags, bags_of, ids_of
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..collectives.team import Team

ROWS_OF_DRAW = 4096  # drawn together: the same numbers for a row however many members there are


class _Spread(nn.Module):
    """What both modules have: a table, and the gradients that wait for a step."""

    def __init__(
        self,
        team: Team,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        dtype: torch.dtype,
        placement: Any,
        optimizer: str | None,
        semantics: str,
        seed: int,
    ):
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ConfigError(f"padding_idx={padding_idx} is none of {num_embeddings} rows")
            padding_idx %= num_embeddings
        self.table = EmbeddingTable(
            team, num_embeddings, embedding_dim, dtype, placement, optimizer, semantics
        )
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.dtype = torch.float32 if self.table.layout.is_quantised else dtype  # of what is looked up
        self.waiting: list[tuple[Bags, np.ndarray]] = []
        # Makes autograd call the backward pass. No parameter: the rows are none of this process's, and
        # DistributedDataParallel would wait for its gradient.
        self._anchor = torch.empty(0, requires_grad=True)
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int = 0) -> None:
        """Draw the rows from the normal distribution, a padding row zero. Collective; the same for any team."""
        table = self.table
        for part in table.own_parts():
            if not part.num_rows:
                continue
            index = part.shard.homes.index(table.team.position)
            own = part.own_rows(table.team.position, np.uint8)
            for first in range(0, table.num_rows, ROWS_OF_DRAW):
                ids = np.arange(first, min(first + ROWS_OF_DRAW, table.num_rows))
                drawn = np.random.default_rng([seed, first]).standard_normal(
                    (len(ids), table.num_columns), np.float32
                )
                if self.padding_idx is not None:
                    drawn[ids == self.padding_idx] = 0
                homes, rows = part.shard.whereabouts(ids)
                mine = homes == index
                own[rows[mine]] = table.stored(part, drawn[mine]).view(np.uint8)
        table.team.barrier()

    @property
    def weight(self) -> torch.Tensor:
        """A copy of all rows."""
        return _tensor(self.table.lookup(np.arange(self.num_embeddings)), self.dtype)

    def extra_repr(self) -> str:
        """Rows and columns."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.table.semantics}"


class Embedding(_Spread):
    """torch.nn.Embedding whose rows are spread over a team: see umem.EmbeddingTable. Collective to make.

    Initial rows depend on `seed` alone, as do results on the batch: not on how many members share it.
    """

    def __init__(
        self,
        team: Team,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        placement: Any = "rows",
        optimizer: str | None = "adagrad",
        semantics: str = "auto",
        seed: int = 0,
    ):
        super().__init__(
            team, num_embeddings, embedding_dim, padding_idx, dtype, placement, optimizer, semantics, seed
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The row of each id."""
        return _Rows.apply(input, self._anchor, self)


class EmbeddingBag(_Spread):
    """torch.nn.EmbeddingBag whose rows are spread over a team: see umem.EmbeddingTable. Collective to make."""

    def __init__(
        self,
        team: Team,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        placement: Any = "rows",
        optimizer: str | None = "adagrad",
        semantics: str = "auto",
        seed: int = 0,
    ):
        super().__init__(
            team, num_embeddings, embedding_dim, padding_idx, dtype, placement, optimizer, semantics, seed
        )
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The sum, mean or maximum of each bag's rows."""
        return _Pooled.apply(input, offsets, per_sample_weights, self._anchor, self)


class SparseOptimizer:
    """Steps the tables of `modules` by the optimizers that they were made with. `step` is collective.

    `lr`, `eps`, `betas` and `weight_decay` are those of all of them, and may be changed between steps.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        lr: float,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        self.modules = [each for module in modules for each in module.modules() if isinstance(each, _Spread)]
        self.lr, self.eps, self.betas, self.weight_decay = lr, eps, betas, weight_decay

    def step(self) -> None:
        """Take what gradients there are to their rows, also where this member has none."""
        for module in self.modules:
            bags, gradients = _together(module.waiting, module.table.num_columns)
            module.waiting.clear()
            training.step(module.table, bags, gradients, self.lr, self.eps, self.betas, self.weight_decay)

    def zero_grad(self) -> None:
        """Forget what gradients there are."""
        for module in self.modules:
            module.waiting.clear()


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, anchor: torch.Tensor, module: Embedding) -> torch.Tensor:
        ids = ids_of(input.detach().numpy())
        ctx.ids, ctx.module = ids.reshape(-1), module
        return _tensor(module.table.lookup(ids), module.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows = gradient.reshape(-1, gradient.shape[-1]).float().numpy()
        ids = ctx.ids
        if ctx.module.padding_idx is not None:
            kept = ids != ctx.module.padding_idx
            ids, rows = ids[kept], rows[kept]
        ctx.module.waiting.append(_singles(ids, rows))
        return None, None, None


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        offsets: torch.Tensor | None,
        weights: torch.Tensor | None,
        anchor: torch.Tensor,
        module: EmbeddingBag,
    ) -> torch.Tensor:
        bags = bags_of(
            input.detach().numpy(),
            None if offsets is None else offsets.detach().numpy(),
            None if weights is None else weights.detach().float().numpy(),
            module.padding_idx,
            module.mode,
            module.include_last_offset,
        )
        out = module.table.pool_bags(bags, module.mode)
        ctx.bags, ctx.module, ctx.out = bags, module, out
        ctx.given = None if weights is None else (input.detach().reshape(-1), weights)
        return _tensor(out, module.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        bags, module = ctx.bags, ctx.module
        columns = gradient.float().contiguous().numpy()
        of_weights = None
        if module.mode == "max":
            module.waiting.append(_of_maxima(module.table, bags, ctx.out, columns))
        else:
            module.waiting.append((bags.averaging() if module.mode == "mean" else bags, columns))
        if ctx.needs_input_grad[2]:
            ids, weights = ctx.given
            rows = module.table.lookup(bags.ids).astype(np.float32)
            of_kept = torch.from_numpy(np.einsum("ij,ij->i", rows, columns[bags.bag_of]))
            of_weights = torch.zeros(ids.shape)
            kept = slice(None) if module.padding_idx is None else ids != module.padding_idx
            of_weights[kept] = of_kept
            of_weights = of_weights.reshape(weights.shape).to(weights.dtype)
        return None, None, of_weights, None, None


def _of_maxima(
    table: EmbeddingTable, bags: Bags, out: np.ndarray, columns: np.ndarray
) -> tuple[Bags, np.ndarray]:
    """Each column's gradient, for the first row of its bag that has the maximum."""
    rows, bag_of = table.lookup(bags.ids).astype(np.float32), bags.bag_of
    gradients = np.zeros(rows.shape, np.float32)
    taken = np.zeros(out.shape, bool)
    place = np.arange(len(bags.ids)) - bags.offsets[bag_of]
    for turn in range(int(place.max(initial=-1)) + 1):  # the n-th id of every bag at once
        now = np.flatnonzero(place == turn)
        in_bag = bag_of[now]
        is_first = (rows[now] == out[in_bag]) & ~taken[in_bag]
        gradients[now] = np.where(is_first, columns[in_bag], 0)
        taken[in_bag] |= is_first
    return _singles(bags.ids, gradients)


def _singles(ids: np.ndarray, gradients: np.ndarray) -> tuple[Bags, np.ndarray]:
    """A bag for each id."""
    return Bags(np.ascontiguousarray(ids), np.arange(len(ids) + 1), None), gradients


def _together(waiting: list[tuple[Bags, np.ndarray]], num_columns: int) -> tuple[Bags, np.ndarray]:
    """All bags as one batch, in the order of their backward passes."""
    if not waiting:
        return Bags(np.empty(0, np.int64), np.zeros(1, np.int64), None), np.empty(
            (0, num_columns), np.float32
        )
    if len(waiting) == 1:
        return waiting[0]
    ids = np.concatenate([bags.ids for bags, _ in waiting])
    counts = np.concatenate([np.diff(bags.offsets) for bags, _ in waiting])
    weights = np.concatenate(
        [np.ones(len(bags.ids), np.float32) if bags.weights is None else bags.weights for bags, _ in waiting]
    )
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Bags(ids, offsets, weights), np.concatenate([gradients for _, gradients in waiting])


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array).to(dtype)
