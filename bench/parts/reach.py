"""The fabric by which each rank reaches every other, with a check that it finds the right bytes."""

from __future__ import annotations

from umem.kernels.build.compile import cpu_kernel
from umem.kernels.page.control import KIND_DEVICE, is_mapped
from umem.space.space import Space

from .base import SpacePart

_WORD_BYTES = 64
_MAGIC = 0x756D_656D_0000
LOAD_STORE = "load/store"

mapped_here = cpu_kernel("int64(int64, int64, int64)")(is_mapped)


class Reach(SpacePart):
    """A word in every rank's memory, which every rank reads and adds to by its address."""

    def __init__(self, space: Space):
        super().__init__(space)
        self.words = [self.shared(_WORD_BYTES, home=rank).address for rank in range(space.num_ranks)]
        space.store(self.words[self.rank], _MAGIC + self.rank, "int64")
        space.barrier()

    def routes(self) -> list[str]:
        """By home: the fabric by which this rank reaches its memory, "" where it read a wrong value there."""
        return [self._route(rank, address) for rank, address in enumerate(self.words)]

    def _route(self, rank: int, address: int) -> str:
        if self.space.load(address, "int64") != _MAGIC + rank:
            return ""
        if mapped_here(self.space.control, address, 8):
            return LOAD_STORE
        assert self.space.fabric is not None
        transport = self.space.fabric.transports.partition(",")[0]
        return f"{self.space.switch.fabric_to(rank, KIND_DEVICE).name} {transport}"

    def add(self) -> None:
        """Every rank adds 1 to every rank's second word, all at once."""
        self.space.barrier()
        for address in self.words:
            self.space.fetch_add(address + 8, 1, "int64")
        self.space.barrier()

    def sums(self) -> list[int]:
        """The second words, as this rank sees them."""
        return [self.space.load(address + 8, "int64") for address in self.words]
