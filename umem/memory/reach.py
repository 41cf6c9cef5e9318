"""What a rank reaches by loads and stores: for each rank and kind of memory, from its CPU and from its GPU.

The table stands on the control page (CONTROL_REACH), where compiled code reads its own processor's side of it.
"""

from __future__ import annotations

from ..kernels.page.control import KIND_DEVICE, KIND_HOST, KIND_META, REACH_KINDS

KINDS_OF_MEMORY = {"device": KIND_DEVICE, "host": KIND_HOST, "meta": KIND_META}


class Reach:
    """The reach of one rank of a world of `num_ranks`; `words` has a word a rank, as on the control page."""

    def __init__(self, num_ranks: int):
        self.words = [0] * num_ranks

    def add(self, rank: int, kind: int, *, by_gpu: bool = False) -> None:
        """From now on the CPU, or the GPU, reaches that memory of `rank`."""
        self.words[rank] |= 1 << (kind + REACH_KINDS * by_gpu)

    def by_cpu(self, rank: int, kind: int) -> bool:
        """Whether this rank's CPU loads and stores the `kind` segment of `rank`."""
        return bool(self.words[rank] >> kind & 1)

    def by_gpu(self, rank: int, kind: int) -> bool:
        """Whether this rank's GPU does."""
        return bool(self.words[rank] >> (kind + REACH_KINDS) & 1)

    @property
    def sharing_ranks(self) -> frozenset[int]:
        """Ranks whose metadata this rank's CPU reaches: those that may share memory with it, on its host."""
        return frozenset(rank for rank in range(len(self.words)) if self.by_cpu(rank, KIND_META))

    @property
    def is_whole(self) -> bool:
        """Whether this rank's CPU reaches all memory of the world."""
        return all(
            self.by_cpu(rank, kind) for rank in range(len(self.words)) for kind in KINDS_OF_MEMORY.values()
        )
