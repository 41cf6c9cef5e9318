"""The libraries that umem is measured against. A peer is a module here with `OPERATIONS` and
`side(workers, operation, point)`.

| operation | one operation of it |
|---|---|
| message | half a round trip of one message of point.num_bytes |
| stream | one of many messages of point.num_bytes in one direction, with several in flight |
| am | a round trip of one active message of point.num_bytes |
| get, put | one one-sided access, complete on return |
| put_ping_pong | half a round trip of puts of point.num_bytes, seen by polling where they arrive |
| fetch_add | one on a word of the peer's, complete on return |
| reduce | an all-reduce (sum of float32) over all ranks |
| exchange | an all-to-all, point.num_bytes for each pair |

Collective operations have a module of their own: collectives.py.

Modules load when they are chosen, since their library may not be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from umem.errors import Waived
from umem.world.spec import HOSTS

if TYPE_CHECKING:
    from ..harness.side import Point, Side
    from ..harness.workers import Workers

_MODULES = {"ucx_perftest": "perftest", "gloo": "gloo", "mpi": "mpi", "ucxx": "ucxx"}


def sides(workers: Workers, operation: str, point: Point) -> list[Side]:
    """A side for every peer that the user chose and that knows `operation`."""
    found: list[Side] = []
    for name in [peer for peer in workers.options.peers if peer in _MODULES]:
        module = import_module(f"{__name__}.{_MODULES[name]}")
        if operation in module.OPERATIONS:
            found.append(module.side(workers, operation, point))
    return found


def check_world(workers: Workers, name: str) -> None:
    """Raise Waived where a peer with processes of its own would not run in the world that its rows name."""
    if workers.options.world == HOSTS:
        raise Waived(f"{name} would run outside the network namespaces of world {HOSTS}; use --world mapped")
