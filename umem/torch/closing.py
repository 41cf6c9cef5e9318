"""What becomes of memory that torch still has when its space closes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch

from ..errors import WorldError
from ..units import format_size
from .parts import pointer_of

AtClose = Literal["warn", "refuse", "detach"]

HOLDERS_SHOWN = 10
FRAMES_TO_USER = 5  # let_stay, before_close, Space.close, Space.__exit__, the line that leaves the context


class Holder(Protocol):
    """What a pool knows of the memory that it has given out."""

    def holds(self, pointer: int) -> bool:
        """Whether the memory at `pointer` is the pool's."""

    def rank_of(self, pointer: int) -> int:
        """The rank whose memory it is."""


def let_stay(
    what: str, at_close: AtClose, is_forced: bool, describe: Callable[[], Iterator[str]] = lambda: iter(())
) -> None:
    """Warn that `what` outlives its space, or raise WorldError with what `describe` tells of it; or do neither.

    With `is_forced` an exception has left the context, and is the news.
    """
    if is_forced or at_close == "detach":
        return
    if at_close == "refuse":
        raise WorldError(
            "\n  ".join([f"{what} in this space:", *describe()])
            + "\ndelete them before the space closes, or install(space, at_close='warn') lets them keep their memory"
        )
    warnings.warn(
        f"{what} in a space that closes: their memory stays until the process ends, and it can open no other space."
        " Delete them before, or install(space, at_close=...): 'refuse' lists them, 'detach' is silent",
        RuntimeWarning,
        stacklevel=FRAMES_TO_USER,
    )


def describe_live(pool: Holder) -> Iterator[str]:
    """A line a living tensor of the pool that Python knows, largest first."""
    found = sorted(live_tensors(pool), key=lambda tensor: -tensor.untyped_storage().nbytes())
    for tensor in found[:HOLDERS_SHOWN]:
        size = format_size(tensor.untyped_storage().nbytes())
        pointer = tensor.untyped_storage().data_ptr()
        kind = type(tensor).__name__
        yield f"{kind} {tuple(tensor.shape)} {tensor.dtype}, {size} at {pointer:#x}, rank {pool.rank_of(pointer)}"
    if len(found) > HOLDERS_SHOWN:
        yield f"and {len(found) - HOLDERS_SHOWN} more tensors"
    if not found:
        yield "none that Python knows: saved by an autograd graph, or held by a library or a worker"


def live_tensors(pool: Holder) -> list[torch.Tensor]:
    """Tensors whose memory is the pool's, one a storage, as far as Python's collector knows them."""
    found: dict[int, torch.Tensor] = {}
    for item in gc.get_objects():
        # Not isinstance: that asks objects for __class__, and some of torch's answer with a warning.
        if issubclass(type(item), torch.Tensor):
            pointer = pointer_of(item)
            if pool.holds(pointer):
                found.setdefault(pointer, item)
    return list(found.values())
