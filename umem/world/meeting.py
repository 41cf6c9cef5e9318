"""How ranks of one host meet that mpirun or srun started: rank 0 serves their hub.

Rank 0 listens on a UNIX socket whose name is made of the user and the launcher's job, and each rank, itself included,
connects to it. There is no port, no file and no secret: each side checks that the other is of the same user.

The hub lives in a thread of rank 0 as long as its process, which may leave the world and join again, and which ends
only after the others or `timeout_s` later: they may still wait for an answer. It watches the processes of the others:
a fork that one leaves behind holds its stream open, and is not the rank.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import selectors
import socket
import threading
from contextlib import suppress
from functools import partial

from ..errors import RankLost, WaitTimeout, WorldError
from . import liveness
from .connection import Connection
from .frames import Channel, Frame, Kind, encode, pack_blobs, unpack_blobs
from .hub import Hub, Outgoing
from .launchers import Request
from .local_sockets import abstract, is_own_user, peer_pid
from .spec import MAX_RANKS
from .waiting import Deadline, until

_ANSWER_TIMEOUT_S = 1.0  # at least: the hub answers at once unless rank 0 holds its GIL
_RETRY_S = 0.01  # an abstract name that is not there yet cannot be waited for


def enter(asked: Request, timeout_s: float) -> Channel:
    """This rank's channel to the hub of its job, which rank 0 opens here.

    Raises WaitTimeout with what stood in the way where rank 0 does not let this rank in within `timeout_s`,
    WorldError where rank 0 is in a world already or the name belongs to another user.
    """
    name = abstract(hashlib.sha256(f"{os.geteuid()} {asked.job}".encode()).hexdigest()[:32].encode())
    if asked.rank == 0:
        Meeting(name, asked.num_ranks, timeout_s)
    deadline, why_not = Deadline(timeout_s), ""

    def look() -> Channel | None:
        nonlocal why_not
        channel, why_not = _try(name, asked, deadline.left_s(_ANSWER_TIMEOUT_S))
        if channel is None:
            liveness.ended((), _RETRY_S)
        return channel

    channel = until(look, deadline)
    if channel is None:
        raise WaitTimeout(
            f"rank {asked.rank} of {asked.num_ranks} ({asked.launcher}) was not let in by rank 0 within"
            f" {timeout_s:g} s: {why_not}; each rank calls umem.init(), and all share one network namespace"
        )
    return channel


def _try(name: bytes, asked: Request, timeout_s: float) -> tuple[Channel | None, str]:
    """A channel, or why there is none yet."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(name)
    except (ConnectionError, FileNotFoundError):
        stream.close()
        return None, "it has not come"
    if not is_own_user(stream):
        stream.close()
        raise WorldError("the name of this job's meeting is taken by a process of another user")
    channel = Channel(stream.detach(), lambda: RankLost(0, "and it served the rendezvous of this world"))
    try:
        place = pack_blobs(str(asked.rank).encode(), str(asked.num_ranks).encode())
        answer = channel.receive(channel.request(Kind.ENTER, place, timeout_s), timeout_s)
    except RankLost:
        answer, why_not = None, "it has ended"
    else:
        why_not = "it did not answer" if answer is None else answer.payload.decode()
    if answer is not None and not why_not:
        return channel, ""
    channel.close()
    return None, why_not


class _Guest(Connection):
    """A process that has connected; it has a `rank` once it has named itself and was admitted."""

    def __init__(self, stream: socket.socket):
        stream.setblocking(False)
        super().__init__(stream)
        self.rank: int | None = None
        pid = peer_pid(stream)
        # 0: of a pid namespace that is not seen here; only the end of its stream tells of its end.
        self.pidfd = os.pidfd_open(pid) if pid else None

    def close(self) -> None:
        self.stream.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


class Meeting:
    """The hub of `num_ranks` ranks behind the abstract socket `name`, served by a thread until the process ends."""

    def __init__(self, name: bytes, num_ranks: int, timeout_s: float):
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(name)
        except OSError as error:
            self._listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise WorldError(
                "another process is rank 0 of this job; a process that a rank starts is no rank itself: start it"
                " without the launcher's variables (env -u OMPI_COMM_WORLD_RANK -u PMI_RANK -u SLURM_PROCID)"
            ) from None
        self._listener.listen(MAX_RANKS)
        self._num_ranks = num_ranks
        self._hub = Hub(num_ranks)
        self._guests: set[_Guest] = set()
        self._ranks: dict[int, _Guest] = {}
        self._ended: set[int] = set()
        self._no_others = threading.Event()
        self._no_others.set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        # A fork has no thread that serves, and must not keep the name nor the streams open.
        os.register_at_fork(after_in_child=self._close)
        atexit.register(self._no_others.wait, timeout_s)
        threading.Thread(target=self._serve, name="umem-meeting", daemon=True).start()

    def _serve(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fd in self._selector.get_map():  # an earlier event of this turn may have closed it
                    key.data(events)

    def _accept(self, events: int) -> None:
        stream, _ = self._listener.accept()
        if not is_own_user(stream):
            stream.close()
            return
        try:
            guest = _Guest(stream)
        except ProcessLookupError:  # it ended meanwhile
            stream.close()
            return
        self._guests.add(guest)
        self._selector.register(guest.stream, selectors.EVENT_READ, partial(self._on_stream, guest))
        if guest.pidfd is not None:
            self._selector.register(guest.pidfd, selectors.EVENT_READ, partial(self._on_end, guest))

    def _on_stream(self, guest: _Guest, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(guest)
        if events & selectors.EVENT_READ:
            for frame in guest.receive():
                self._take(guest, frame)
            if not guest.is_connected:
                self._dismiss(guest)

    def _on_end(self, guest: _Guest, events: int) -> None:
        for frame in guest.receive():  # what it said last
            self._take(guest, frame)
        self._dismiss(guest)

    def _take(self, guest: _Guest, frame: Frame) -> None:
        if guest.rank is not None:
            self._send(self._hub.receive(guest.rank, frame))
        elif frame.kind is Kind.ENTER:
            rank, num_ranks = map(int, unpack_blobs(frame.payload))
            why_not = self._why_not(rank, num_ranks)
            if not why_not:
                guest.rank = rank
                self._ranks[rank] = guest
                if rank != 0:
                    self._no_others.clear()
            guest.unsent += encode(Kind.VALUE, frame.request, why_not.encode())
            self._flush(guest)

    def _why_not(self, rank: int, num_ranks: int) -> str:
        """Why somebody is not let in; nothing where it is."""
        if num_ranks != self._num_ranks:
            return f"it has a world of {self._num_ranks} ranks"
        if rank in self._ranks or rank in self._ended:
            return f"another process is rank {rank} of its world"
        return ""

    def _send(self, outgoing: Outgoing) -> None:
        for rank, data in outgoing:
            if rank in self._ranks:
                self._ranks[rank].unsent += data
                self._flush(self._ranks[rank])

    def _flush(self, guest: _Guest) -> None:
        guest.flush()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if guest.unsent else 0)
        self._selector.modify(guest.stream, events, partial(self._on_stream, guest))

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.stream)
        if guest.pidfd is not None:
            self._selector.unregister(guest.pidfd)
        self._guests.discard(guest)
        guest.close()
        if guest.rank is not None:
            del self._ranks[guest.rank]
            self._ended.add(guest.rank)
            if not self._ranks.keys() - {0}:
                self._no_others.set()
            self._send(self._hub.rank_ended(guest.rank, "has ended"))

    def _close(self) -> None:
        """Let go of every descriptor, without a word to the selector, which a fork shares with its parent."""
        self._no_others.set()
        self._listener.close()
        for guest in list(self._guests):
            with suppress(OSError):
                guest.close()
