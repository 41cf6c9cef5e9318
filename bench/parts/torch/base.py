"""The base of the parts under torch: a pool over the neighbour's memory, and torch's own allocator beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from umem.space.space import Space
from umem.torch import install, use_pool
from umem.torch.c10 import C10
from umem.torch.layout import PAGE_DEFAULT
from umem.torch.memory import page

from ..base import SpacePart


class TorchPart(SpacePart):
    """A part in ranks that have installed umem.torch. Rank 0 works, in the memory of its neighbour."""

    def __init__(self, space: Space):
        super().__init__(space)
        torch.set_num_threads(1)  # a rank is a core
        install(space)
        self.home = (space.rank + 1) % space.num_ranks

    def at_neighbour(self) -> use_pool:
        """Context in which torch allocates in the neighbour's memory."""
        return use_pool(home=self.home)


@contextmanager
def uninstalled() -> Iterator[int]:
    """Context in which torch's allocator is its own again, as if umem had never been; gives its address.

    The reference is so measured in the same process: two processes differ by more than the few percent in
    question, each for as long as it lives.
    """
    c10 = C10()
    ours, own = c10.allocator(), page()[PAGE_DEFAULT]
    c10.replace(own)
    try:
        yield own
    finally:
        c10.replace(ours)
