"""Worlds: which ranks there are, where they run, how they start, meet and end.

    spec          what a world is asked to be; what each kind means as plain data
    world         World, a rank's view of the others
    membership    join() and current(): how a process gets into its world, once
    launcher      launch(): a function in new ranks, from any process, notebooks included
    command       `umem run`
    warm_parent   the single-threaded process that loads everything once and forks the ranks
    supervisor    its loop: hub, signals, failures, the end
    child         one running rank as the parent holds it: process, stream, output
    placement     which core, host and network each rank gets
    ranks         what happens in a rank between fork and the user's first line
    job, output   what goes to the parent and comes back; the ranks' lines
    hub, rendezvous, frames, connection     how launched ranks meet: blobs over inherited socketpairs
    torchrun      how ranks meet that torchrun started: torch's TCPStore
    launchers     mpirun, mpiexec, srun: what their variables say
    meeting       how their ranks meet: in rank 0, over a UNIX socket
    local_sockets UNIX sockets without files, and the identity of the peer at the other end
    descriptors   file descriptors between ranks of one host
    namespaces    hosts of the `hosts` world, as network namespaces
    interfaces    network interfaces and their addresses
    open_files    the limit of open files
    liveness      pidfds, and processes that end with their parent

Nothing here imports numpy, numba or torch when it is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .launcher import launch
    from .membership import Meeting, current, join
    from .spec import KINDS, WorldSpec
    from .world import World

__all__ = ["KINDS", "Meeting", "World", "WorldSpec", "current", "join", "launch"]

_HOMES = {
    "KINDS": ".spec",
    "WorldSpec": ".spec",
    "World": ".world",
    "Meeting": ".membership",
    "current": ".membership",
    "join": ".membership",
    "launch": ".launcher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
