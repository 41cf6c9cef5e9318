"""Training state at another home: activations and optimizer state, without changing a bit of the result.

Memory of the pool is read and written in place, so nothing is fetched back: backward reads an activation
where it lives. A whole step inside `use_pool` puts everything there without any of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from .parts import pointers_of
from .placement import mover
from .pool import Home, Homes, installed, use_pool

MIN_BYTES = 4096  # below that a copy costs more than the memory is worth


@contextmanager
def offload_activations(
    home: Home,
    spill: Homes = (),
    keep: torch.nn.Module | Iterable[torch.Tensor] = (),
    min_bytes: int = MIN_BYTES,
) -> Iterator[None]:
    """Context of a forward pass: what autograd saves for backward is copied to `home`, its original let go.

    Left alone are leaves of the graph (parameters, inputs), tensors that share memory with those of `keep` (a
    module, or tensors), those in the pool already, and those below `min_bytes`. Raises what use_pool raises.
    """
    context, pool = use_pool(home, spill), installed()
    kept = keep.state_dict(keep_vars=True).values() if isinstance(keep, torch.nn.Module) else keep
    left_alone = {pointer for tensor in kept for pointer in pointers_of(tensor)}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        is_leaf = tensor.is_leaf and tensor.requires_grad
        if is_leaf or tensor.numel() * tensor.itemsize < min_bytes:
            return tensor
        pointers = pointers_of(tensor)
        if all(pointer in left_alone or pool.holds(pointer) for pointer in pointers):
            return tensor  # also where it has no memory on the CPU
        with context:
            return tensor.detach().clone()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


class offload_optimizer:
    """Keeps the state of `optimizer` at `home`, from its next step on, until `remove`.

    State appears with the first step and with load_state_dict; right after either it is moved. Tensors below
    `min_bytes` stay where they are. Raises what use_pool raises.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, home: Home, spill: Homes = (), min_bytes: int = MIN_BYTES
    ):
        use_pool(home, spill)  # raises here what is wrong with the homes
        self._home, self._spill, self._min_bytes = home, tuple(spill), min_bytes
        self._hooks = [
            optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self._move(optimizer)),
            optimizer.register_load_state_dict_post_hook(self._move),
        ]
        self._move(optimizer)

    def remove(self) -> None:
        """Move no more; state that lives at the home stays there."""
        for hook in self._hooks:
            hook.remove()

    def _move(self, optimizer: torch.optim.Optimizer) -> None:
        move = mover(self._home, self._spill)
        for state in optimizer.state.values():
            for name, value in state.items():
                if self._is_movable(value):
                    state[name] = move(value)

    def _is_movable(self, value: Any) -> bool:
        is_cpu = isinstance(value, torch.Tensor) and value.is_cpu  # a fifth of the time of device.type
        return is_cpu and value.numel() * value.itemsize >= self._min_bytes
