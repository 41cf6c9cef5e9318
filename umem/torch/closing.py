"""The close of a space whose memory torch still uses: refuse, or warn and let the memory stay mapped."""

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
    """A pool, as far as it can tell its own memory."""

    def holds(self, pointer: int) -> bool:
        """Whether the memory at `pointer` is the pool's."""

    def rank_of(self, pointer: int) -> int:
        """The rank in whose segment an address of the pool lives."""


def let_stay(
    survivors: str,
    at_close: AtClose,
    is_forced: bool,
    describe: Callable[[], Iterator[str]] = lambda: iter(()),
) -> None:
    """Let `survivors` outlive their space: silently ("detach"), with a warning, or ("refuse") raise WorldError.

    The error lists the lines of `describe`. With `is_forced` it is silent too: an exception has left the context, and
    is the news.
    """
    if is_forced or at_close == "detach":
        return
    if at_close == "refuse":
        raise WorldError(
            "\n  ".join([f"{survivors} in this space:", *describe()])
            + "\ndelete them before the space closes, or install(space, at_close='warn') lets them keep their memory"
        )
    warnings.warn(
        f"{survivors} in a space that closes: their memory stays until the process ends, and it can open no other"
        " space. Delete them before, or install(space, at_close=...): 'refuse' lists them, 'detach' is silent",
        RuntimeWarning,
        stacklevel=FRAMES_TO_USER,
    )


def describe_live(pool: Holder) -> Iterator[str]:
    """A line for each living tensor of the pool that Python's collector knows, largest first."""
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
    """The pool's living tensors that Python's collector knows, one a storage."""
    found: dict[int, torch.Tensor] = {}
    for item in gc.get_objects():
        # Not isinstance: that asks objects for __class__, and some of torch's answer with a warning.
        if issubclass(type(item), torch.Tensor):
            pointer = pointer_of(item)
            if pool.holds(pointer):
                found.setdefault(pointer, item)
    return list(found.values())
