"""The interface of a fabric: it moves bytes to and from a home.

`address` is the number by which the home's transport knows the bytes (Segments.remote_address);
pointers are this process's own memory.
"""

from __future__ import annotations

from typing import Any, Protocol


class Fabric(Protocol):
    """One way to reach a home. All calls return when the effect is complete at the home.

    Raise WaitTimeout past the deadline, RankLost for a home that is confirmed dead, FabricError for a
    transport's own failure.
    """

    name: str

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src` to `address` at `rank`.

        `keep` is an object to hold on to for as long as the transport may use `src`, also after an error.
        """
        ...

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address` at `rank` to the pointer `dst`; `keep` as in put."""
        ...
