"""What a rank's coherent cache needs of others: of the heap, and of agents of homes that are not mapped."""

from __future__ import annotations

from typing import Protocol


class Heap(Protocol):
    """The heap, as far as cached memory needs one."""

    def alloc(self, num_bytes: int, home: int | str, align: int) -> int:
        """Address of new memory."""

    def give(self, address: int) -> None:
        """Make all ranks its owner."""

    def free(self, address: int) -> None:
        """Give it back."""


class Peers(Protocol):
    """The agents of homes that are not mapped, as far as the cache needs them: umem/lines/remote.py."""

    def finish(self, cache: int, timeout_s: float) -> None:
        """Wait for the flit that compiled code has left in the header at `cache`, and end it."""

    def mark(self, home: int, address: int, value: int) -> None:
        """Have a block at `home` cached as the block word says."""

    def call_home(self, home: int, block: int) -> None:
        """Have every line of a block at `home` uncached."""

    def look(self, home: int, address: int) -> int:
        """The block word of an address at `home`."""

    def lift(self, home: int, address: int, line_log2: int) -> None:
        """Lift the poison of a line at `home`."""
