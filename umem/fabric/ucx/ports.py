"""The ports of a rank's threads: one for each operation in progress, used again when it has ended.

A thread takes one for an operation and puts it back, so a lone thread uses the same one for ever. An operation that
was given up keeps its port, and what the port keeps alive, for as long as UCX may write there.
"""

from __future__ import annotations

from ...kernels import status
from . import operations
from .channels import Channels
from .port import PORT_REQUEST, PORT_STAGE, Port


class Ports:
    """Ports of `channels`, by rank."""

    def __init__(self, channels: Channels):
        self._channels = channels
        # Every port that was made: one that an exception took from its owner may still be written to.
        self._made = [[Port(channels, index)] for index in range(len(channels.workers))]
        self._free = [list(ports) for ports in self._made]
        self._given_up: list[tuple[int, Port]] = []

    def first(self, rank: int) -> Port:
        """The port of operations with `rank` where there is one at a time."""
        return self._made[self._channels.index(rank)][0]

    def take(self, rank: int) -> Port:
        """A port to `rank` that nobody uses; it is the caller's until `put_back` or `give_up`."""
        index = self._channels.index(rank)
        try:
            return self._free[index].pop()
        except IndexError:
            self._reap()
        port = Port(self._channels, index)
        self._made[index].append(port)
        return port

    def put_back(self, rank: int, port: Port) -> None:
        """End the use of a port whose operation has ended."""
        port.kept = None
        self._free[self._channels.index(rank)].append(port)

    def give_up(self, rank: int, port: Port) -> None:
        """Leave the operation in the port: a receive is cancelled; anything else, and what it writes to, is UCX's."""
        is_receive = int(port.words[PORT_STAGE] == operations._RECEIVING)
        if port.words[PORT_REQUEST] <= 0 or operations.abandon(port.address, is_receive) == status.OK:
            self.put_back(rank, port)
        else:
            self._given_up.append((rank, port))

    def _reap(self) -> None:
        waiting, self._given_up = self._given_up, []
        for rank, port in waiting:
            if operations.abandon(port.address, 0) == status.OK:
                self.put_back(rank, port)
            else:
                self._given_up.append((rank, port))
