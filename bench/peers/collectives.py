"""Peers of collective operations: a side for each that the user chose, all with the same arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umem.world.spec import HOSTS

from ..harness.side import SlowestRankSide
from ..harness.wire import Part
from . import gloo, mpi

if TYPE_CHECKING:
    from ..harness.side import Side
    from ..harness.workers import Workers


def sides(workers: Workers, arguments: dict[str, object]) -> list[Side]:
    """A side for every chosen peer that has collectives; `arguments` as harness/collective.py's Operation."""
    over_tcp = workers.options.world == HOSTS  # as umem's own, though not between network namespaces
    found: list[Side] = []
    for name in workers.options.peers:
        if name == "gloo":
            part = Part(gloo.group(workers), "umem.bench.peers.gloo_collective:Collective", **arguments)
        elif name in mpi.INSTALLATIONS:
            part = Part(
                mpi.group(workers, name, over_tcp), "umem.bench.peers.mpi_collective:Collective", **arguments
            )
        else:
            continue
        transport = "tcp" if name == "gloo" or over_tcp else "shared memory"
        found.append(SlowestRankSide(name, "message", part, "block", peer=name, transport=transport))
    return found
