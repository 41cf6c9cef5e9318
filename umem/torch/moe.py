"""umem.moe for tensors, with gradients: that of a dispatch is a combine the same way back, and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ..errors import ArgumentTypeError
from ..moe import Exchange, Handle

if TYPE_CHECKING:
    from ..collectives.team import Team

SUMMABLE = (torch.float32, torch.float16, torch.bfloat16)


class MoeExchange:
    """`umem.moe.Exchange` for tensors of the CPU: the same arguments and results, as tensors, with gradients.

    Gradients flow to x and topk_weights of `dispatch`, and to rows and topk_weights of `combine`. A backward pass is
    collective too: every member makes it, also one without tokens or rows, and what needs a gradient at one member does
    at all. Scales have no gradient.
    """

    def __init__(self, team: Team, max_rows: int | None = None, semantics: str = "auto"):
        self.arrays = Exchange(team, max_rows, semantics)

    def dispatch(
        self,
        x: Any,
        topk_idx: torch.Tensor | None = None,
        topk_weights: torch.Tensor | None = None,
        num_experts: int | None = None,
        expert_alignment: int = 1,
        handle: Handle | None = None,
    ) -> tuple[Any, torch.Tensor, torch.Tensor | None, list[int], Handle]:
        """Take each token's row to every expert that it chose: see `umem.moe.Exchange.dispatch`."""
        is_pair = isinstance(x, tuple | list)
        tokens, *scales = x if is_pair else (x,)
        rest: list[Any] = [scales, topk_idx, num_experts, expert_alignment, handle]
        recv, weights, recv_scales, experts, num_rows, made = _Dispatch.apply(
            tokens, topk_weights, self.arrays, rest
        )
        return (recv, recv_scales) if is_pair else recv, experts, weights, num_rows, made

    def combine(
        self, rows: torch.Tensor, handle: Handle, topk_weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum each token's rows: see `umem.moe.Exchange.combine`."""
        total, weights = _Combine.apply(rows, topk_weights, self.arrays, handle)
        return total, weights

    def close(self) -> None:
        """Give back the memory of rows that nobody holds."""
        self.arrays.close()


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weights: Any, exchange: Exchange, rest: list[Any]) -> Any:
        scales, topk_idx, num_experts, alignment, handle = rest
        if ctx.needs_input_grad[0] and x.dtype not in SUMMABLE:
            raise ArgumentTypeError(
                f"x is {x.dtype} and needs a gradient, which is a sum: give one of {SUMMABLE}"
            )
        given = (_array(x), *map(_array, scales)) if scales else _array(x)
        received, experts, recv_weights, num_rows, handle = exchange.dispatch(
            given, _array(topk_idx), _array(weights), num_experts, alignment, handle
        )
        ctx.exchange, ctx.handle = exchange, handle
        recv, recv_scales = received if scales else (received, None)
        made = _tensor(recv), _tensor(recv_weights), _tensor(recv_scales), _tensor(experts)
        ctx.mark_non_differentiable(*[one for one in made[2:] if one is not None])
        return *made, num_rows, handle

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_rows, of_weights = gradients[:2]
        if not ctx.needs_input_grad[0]:
            # Rows that need no gradient may be of a type that is not summed; the others wait for a sum all the same.
            of_rows = torch.zeros(len(of_rows), 1)
        x, weights = ctx.exchange.combine(_array(of_rows), ctx.handle, _array(of_weights))
        return _tensor(x) if ctx.needs_input_grad[0] else None, _tensor(weights), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Any, weights: Any, exchange: Exchange, handle: Handle) -> Any:
        total, back = exchange.combine(_array(rows), handle, _array(weights))
        ctx.exchange, ctx.handle = exchange, handle
        return _tensor(total), _tensor(back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_total, of_weights = map(_array, gradients)
        rows, _, weights, _, _ = ctx.exchange.dispatch(of_total, None, of_weights, handle=ctx.handle)
        return _tensor(rows), _tensor(weights), None, None


def _array(tensor: torch.Tensor | None) -> Any:
    """The same memory as a NumPy array. Raises ArgumentTypeError for what is no tensor of the CPU."""
    if tensor is None:
        return None
    if not isinstance(tensor, torch.Tensor):
        raise ArgumentTypeError(f"a {type(tensor).__name__} is no tensor; arrays go to umem.moe.Exchange")
    if tensor.device.type != "cpu":
        raise ArgumentTypeError(f"a tensor is on {tensor.device}: an exchange takes tensors of the CPU")
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    """The same memory as a tensor."""
    if array is None:
        return None
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
