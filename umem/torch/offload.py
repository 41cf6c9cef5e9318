"""Training state at another home: activations and optimizer state, without changing a bit of the result.

Memory of the pool is read and written in place, so nothing is fetched back: backward reads an activation
where it lives. A whole step inside `use_pool` puts everything there without any of this.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Number
from types import NoneType
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from .parts import pointers_of
from .placement import mover
from .pool import Home, Homes, installed, use_pool

MIN_BYTES = 4096  # below that a copy costs more than the memory is worth
SMALL = "small"
STATES_SHOWN = 5  # by a warning
NUMBERS = (Number, str, NoneType)  # values of a state beside tensors; they need no home


@contextmanager
def offload_activations(
    home: Home,
    spill: Homes = (),
    keep: torch.nn.Module | Iterable[torch.Tensor] = (),
    min_bytes: int = MIN_BYTES,
) -> Iterator[None]:
    """Context of a forward pass: tensors that autograd saves for backward are copied to `home`, their originals freed.

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

    State is moved when it has appeared, after the first step and after load_state_dict, also from lists, tuples and
    dicts. `left_behind` names the state that stays where it is: tensors below `min_bytes`, and, with one warning,
    tensors of other devices, views of larger tensors, and state inside other objects. Raises what use_pool raises.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, home: Home, spill: Homes = (), min_bytes: int = MIN_BYTES
    ):
        use_pool(home, spill)  # raises here where the homes are wrong
        self._optimizer = optimizer
        self._home, self._spill, self._min_bytes = home, tuple(spill), min_bytes
        self._has_warned = False
        self._hooks = [
            optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self._move()),
            optimizer.register_load_state_dict_post_hook(lambda optimizer: self._move()),
        ]
        self._move()

    def remove(self) -> None:
        """Stop moving; state that lives at the home stays there."""
        for hook in self._hooks:
            hook.remove()

    def left_behind(self) -> dict[str, str]:
        """The state that is not moved, by name, with the reason; parameters count from 0 as in state_dict()."""
        reasons = ((name, self._why_it_stays(value)) for name, value in _named_state(self._optimizer))
        return {name: why for name, why in reasons if why}

    def _move(self) -> None:
        move = mover(self._home, self._spill)
        moved: dict[
            int, tuple[torch.Tensor, torch.Tensor]
        ] = {}  # old and new: one tensor in two places stays one

        def put(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                if self._why_it_stays(value):
                    return value
                return moved.setdefault(id(value), (value, move(value)))[1]
            if isinstance(value, list):
                value[:] = map(put, value)  # the optimizer may know this very list
            elif isinstance(value, dict):
                value.update((key, put(one)) for key, one in value.items())
            elif type(value) is tuple:  # others have constructors of their own
                return tuple(map(put, value))
            return value

        for state in self._optimizer.state.values():
            put(state)
        if self._optimizer.state and not self._has_warned:
            self._has_warned = True
            self._warn()

    def _warn(self) -> None:
        unexpected = [
            f"{name} ({why})" for name, why in self.left_behind().items() if not why.startswith(SMALL)
        ]
        if unexpected:
            warnings.warn(
                f"offload_optimizer leaves {len(unexpected)} of the optimizer's states where they are:"
                f" {', '.join(unexpected[:STATES_SHOWN])}; left_behind() names all",
                RuntimeWarning,
                stacklevel=2,
            )

    def _why_it_stays(self, value: Any) -> str:
        """The reason why a value of the state is not moved, or "" where it is moved or needs no home."""
        if not isinstance(value, torch.Tensor):
            return "" if isinstance(value, NUMBERS) else f"in a {type(value).__name__}"
        if not value.is_cpu:  # a fifth of the time of device.type
            return f"on {value.device}"
        num_bytes = value.numel() * value.itemsize
        if num_bytes < self._min_bytes:
            return f"{SMALL}, {num_bytes} bytes"
        is_plain = type(value) is torch.Tensor and value.layout is torch.strided
        is_part = is_plain and value.untyped_storage().nbytes() > num_bytes
        return "a view of a larger tensor" if is_part else ""


def _named_state(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """Every value of an optimizer's state under a name."""
    numbers = {
        parameter: number
        for number, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"])
    }
    for key, state in optimizer.state.items():
        owner = f"parameter {numbers[key]}" if key in numbers else repr(key)
        for name, value in _leaves(state):
            yield f"{name} of {owner}", value


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) or type(value) is tuple:
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, f"{name}[{key!r}]" if name else str(key))
    else:
        yield name, value
