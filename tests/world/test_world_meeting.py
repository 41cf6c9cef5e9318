"""The hub that rank 0 serves: who is let in, once, and what it hears last."""

from __future__ import annotations

import os
import selectors
import socket
import threading

import pytest

from umem.errors import WaitTimeout
from umem.world import meeting
from umem.world.frames import Channel, FrameBuffer, Kind, encode, pack_blobs
from umem.world.hub import Hub
from umem.world.launchers import Request
from umem.world.local_sockets import abstract

END_S = 20.0
NAME = abstract(b"a test of meetings %d" % os.getpid())


def asked(rank: int, job: str) -> Request:
    """What a launcher of two ranks says."""
    return Request("mpiexec", rank, 2, f"{job} of {os.getpid()}", True)


def test_a_rank_that_has_ended_is_not_replaced():
    """Others may have its blobs: a process that takes its name would be another rank."""
    zero = meeting.enter(asked(0, "ended"), END_S)
    meeting.enter(asked(1, "ended"), END_S).close()
    with pytest.raises(WaitTimeout, match="another process is rank 1 of its world"):
        meeting.enter(asked(1, "ended"), 0.2)
    zero.close()


def test_what_a_rank_said_last_is_heard_though_its_end_is_seen_first():
    hub = object.__new__(meeting.Meeting)
    hub._num_ranks, hub._hub, hub._selector = 2, Hub(2), selectors.DefaultSelector()
    hub._guests, hub._ranks, hub._ended, hub._no_others = set(), {}, set(), threading.Event()
    ours, theirs = socket.socketpair()
    guest = meeting._Guest(ours)
    for source in (guest.stream, guest.pidfd):
        hub._selector.register(source, selectors.EVENT_READ)
    theirs.sendall(encode(Kind.ENTER, 1, pack_blobs(b"1", b"2")))
    hub._on_end(guest, selectors.EVENT_READ)
    assert hub._ended == {1}
    hub._selector.close()
    theirs.close()


def test_rank_0_may_be_slow_to_answer(monkeypatch):
    """It may hold its GIL: who asked a second time would meet itself."""
    monkeypatch.setattr(meeting, "_ANSWER_TIMEOUT_S", 0.05)
    request = asked(1, "slow")
    names: list[bytes] = []
    monkeypatch.setattr(meeting, "abstract", lambda name: names.append(name) or NAME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(NAME)
        listener.listen(4)
        listener.settimeout(END_S)
        num_asked = 0

        def answer() -> None:
            nonlocal num_asked
            stream, _ = listener.accept()
            (frame,) = FrameBuffer().feed(stream.recv(1 << 12))
            listener.settimeout(0.3)  # as long as it is busy; who comes again meanwhile is counted
            try:
                listener.accept()
                num_asked += 1
            except TimeoutError:
                pass
            stream.sendall(encode(Kind.VALUE, frame.request, b""))
            num_asked += 1

        thread = threading.Thread(target=answer)
        thread.start()
        channel = meeting.enter(request, END_S)
        thread.join()
    assert isinstance(channel, Channel) and num_asked == 1 and len(names) == 1
    channel.close()
