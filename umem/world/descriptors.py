"""File descriptors between ranks of one host.

Each rank listens on a UNIX socket in the kernel's abstract namespace, under a random name that travels
through the rendezvous, and sends its descriptors to each peer. There is no file, so there is nothing to
remove and nothing that SIGKILL could leave behind; each side checks the other's user, and the sender proves
itself by the listener's random name.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
from typing import Protocol

from ..errors import RankLost, WaitTimeout, WorldError
from .local_sockets import abstract, is_own_user
from .waiting import SLICE_S, Deadline, until

_HEADER = struct.Struct("<I32s")  # the sender's rank, the listener's name
_MAX_FDS = 253  # the kernel's SCM_MAX_FD


class Members(Protocol):
    """A world, as far as sharing of descriptors needs one."""

    rank: int
    num_ranks: int

    def may_map(self, rank: int) -> bool:
        """Whether `rank` is on this host and may map this rank's memory."""

    def exchange(self, key: str, blob: bytes, timeout_s: float | None = None) -> list[bytes]:
        """All-gather of blobs."""

    def is_alive(self, rank: int) -> bool:
        """Whether the process of `rank`, on this machine, lives."""


def share(world: Members, key: str, fds: list[int], timeout_s: float) -> dict[int, list[int]]:
    """Send `fds` to every other rank that may map this one; returns theirs, which the caller closes.

    Collective: every rank of the world, in the same order. Raises RankLost, WaitTimeout, or WorldError
    where a peer cannot be reached or this process may open no more files.
    """
    assert len(fds) <= _MAX_FDS, f"{len(fds)} descriptors do not fit into one message"
    deadline = Deadline(timeout_s)
    peers = [rank for rank in range(world.num_ranks) if rank != world.rank and world.may_map(rank)]
    name = os.urandom(16).hex().encode()
    received: dict[int, list[int]] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        if peers:
            listener.bind(abstract(name))
            listener.listen(len(peers))
        names = world.exchange(f"descriptors {key}", name, timeout_s)
        try:
            for peer in peers:
                _send(world, peer, names[peer], fds)
            while len(received) < len(peers):
                _wait_for_peer(world, listener, [rank for rank in peers if rank not in received], deadline)
                accepted = _accept(listener, name, deadline)
                if accepted is not None:
                    received[accepted[0]] = accepted[1]
        except BaseException:
            for theirs in received.values():
                _close(theirs)
            raise
    return received


def _send(world: Members, peer: int, name: bytes, fds: list[int]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            # Never waits: the peer listens with room for all its peers until each has connected.
            stream.connect(abstract(name))
            if not is_own_user(stream):
                raise WorldError(f"the socket of rank {peer} belongs to a process of another user")
            header = _HEADER.pack(world.rank, name)
            stream.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        except (ConnectionError, FileNotFoundError):
            if not world.is_alive(peer):
                raise RankLost(peer, "before it received descriptors") from None
            raise WorldError(
                f"rank {world.rank} cannot reach rank {peer} over a UNIX socket although both name the same"
                " host; where they run in different containers, give each container its own UMEM_HOST"
            ) from None


def _wait_for_peer(world: Members, listener: socket.socket, missing: list[int], deadline: Deadline) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)

    def lost() -> RankLost | None:
        dead = (rank for rank in missing if not world.is_alive(rank))
        return next((RankLost(rank, "before it sent its descriptors") for rank in dead), None)

    if until(lambda: poll.poll(SLICE_S * 1000) or None, deadline, lost) is None:
        raise WaitTimeout(f"no descriptors from rank {', '.join(map(str, missing))}")


def _accept(listener: socket.socket, name: bytes, deadline: Deadline) -> tuple[int, list[int]] | None:
    """The rank and descriptors of the peer that connected; None for a stranger, whose connection is closed.

    Any user of the machine can find the name of an abstract socket and connect to it.
    """
    stream, _ = listener.accept()
    with stream:
        if not is_own_user(stream):
            return None
        stream.settimeout(deadline.left_s(SLICE_S))
        try:
            data, ancillary, flags, _ = stream.recvmsg(_HEADER.size, socket.CMSG_SPACE(4 * _MAX_FDS))
        except TimeoutError:
            return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    rank, told_name = _HEADER.unpack(data) if len(data) == _HEADER.size else (-1, b"")
    if told_name == name and not flags & socket.MSG_CTRUNC:
        return rank, list(fds)
    _close(list(fds))
    if told_name != name:
        return None
    raise WorldError(
        f"{len(fds)} descriptors of rank {rank} arrived and others were cut off; raise `ulimit -n`"
    )


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
