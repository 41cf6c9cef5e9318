"""Mixtures of experts: tokens' rows to the experts that they chose, and the experts' rows back.

    exchange = umem.moe.Exchange(team)
    rows, expert, weight, num_rows, handle = exchange.dispatch(x, topk_idx, topk_weights, num_experts)
    x, _ = exchange.combine(weight[:, None] * experts(rows, num_rows), handle)

arguments (checks), routing (which row goes where: plain numbers), blocks (memory for rows that arrive), exchange. For
tensors and their gradients: umem.torch.MoeExchange.
"""

from .exchange import Exchange
from .routing import Handle

__all__ = ["Exchange", "Handle"]
