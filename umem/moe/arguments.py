"""What programs hand to an exchange, as arrays in one piece, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import ArgumentTypeError, ConfigError
from ..space.array import Array


def array_of(given: Any, what: str) -> np.ndarray:
    """A NumPy array, or one of the space, in one piece. Raises ArgumentTypeError."""
    if isinstance(given, Array):
        given = given.numpy()
    if not isinstance(given, np.ndarray):
        raise ArgumentTypeError(
            f"{what} is a {type(given).__name__}: give a NumPy array or an array of the space; tensors go to"
            " umem.torch.MoeExchange"
        )
    return np.ascontiguousarray(given)


def table_of(given: Any, what: str) -> np.ndarray:
    """Rows of elements that can be copied. Raises ConfigError, ArgumentTypeError."""
    table = array_of(given, what)
    if table.ndim != 2 or table.shape[1] == 0 or table.dtype.hasobject:
        raise ConfigError(
            f"{what} has shape {table.shape} of {table.dtype}; it is rows of plain elements, [rows, columns]"
        )
    return table


def weights_of(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of this shape. Raises ConfigError, ArgumentTypeError."""
    weights = array_of(given, "topk_weights")
    if weights.dtype != np.float32:
        raise ArgumentTypeError(f"topk_weights are {weights.dtype}; they are float32")
    if weights.shape != shape:
        raise ConfigError(f"topk_weights have shape {weights.shape} where {shape} is meant")
    return weights


def choices_of(topk_idx: Any, num_tokens: int, num_experts: Any, num_members: int) -> np.ndarray:
    """The experts that each token chooses, [num_tokens, num_topk]. Raises ConfigError, ArgumentTypeError."""
    if topk_idx is None or num_experts is None:
        raise ConfigError("dispatch needs topk_idx and num_experts, or a handle")
    chosen = array_of(topk_idx, "topk_idx")
    if chosen.dtype.kind not in "iu":
        raise ArgumentTypeError(f"topk_idx is {chosen.dtype}: experts are named by integers")
    if chosen.ndim != 2 or len(chosen) != num_tokens:
        raise ConfigError(f"topk_idx has shape {chosen.shape}; it is [num_tokens={num_tokens}, num_topk]")
    number = whole(num_experts, "num_experts", 1)
    if number % num_members:
        raise ConfigError(f"{number} experts are no equal parts for {num_members} members")
    check_experts(chosen, number)
    return chosen.astype(np.int64, copy=False)


def check_experts(topk_idx: np.ndarray, num_experts: int) -> None:
    """Raise ConfigError where a choice is neither an expert nor -1."""
    wrong = np.argwhere((topk_idx < -1) | (topk_idx >= num_experts))
    if len(wrong):
        token, choice = wrong[0].tolist()
        raise ConfigError(
            f"topk_idx[{token}, {choice}] is {topk_idx[token, choice]}: token {token} may choose experts 0 to"
            f" {num_experts - 1}, or -1 for none"
        )
