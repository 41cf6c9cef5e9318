"""The hub as bookkeeping: who is answered what, and when; and the frames it speaks in."""

from __future__ import annotations

import socket

import pytest

from umem.errors import RankLost, WaitTimeout, WorldError
from umem.world import rendezvous as rendezvous_module
from umem.world.frames import Channel, Frame, FrameBuffer, Kind, encode, pack_blobs, unpack_blobs
from umem.world.hub import Hub, Outgoing
from umem.world.output import LinePrefixer
from umem.world.rendezvous import Alone, HubClient


def frame(kind: Kind, request: int, *blobs: bytes) -> Frame:
    return Frame(kind, request, pack_blobs(*blobs))


def answers(outgoing: Outgoing) -> list[tuple[int, Frame]]:
    buffer = FrameBuffer()
    return [(rank, next(buffer.feed(data))) for rank, data in outgoing]


def test_a_gather_is_answered_when_the_last_rank_has_come():
    hub = Hub(3)
    assert hub.receive(2, frame(Kind.GATHER, 7, b"key", b"two")) == []
    assert hub.receive(0, frame(Kind.GATHER, 8, b"key", b"zero")) == []
    replies = answers(hub.receive(1, frame(Kind.GATHER, 9, b"key", b"one")))
    assert sorted((rank, reply.request) for rank, reply in replies) == [(0, 8), (1, 9), (2, 7)]
    assert all(unpack_blobs(reply.payload) == [b"zero", b"one", b"two"] for _, reply in replies)


def test_a_gather_that_needs_a_dead_rank_is_lost_for_early_and_late_comers():
    hub = Hub(3)
    hub.receive(0, frame(Kind.GATHER, 1, b"key", b""))
    [(rank, reply)] = answers(hub.rank_ended(2, "ended"))
    assert (rank, reply.kind, reply.request) == (0, Kind.LOST, 1)
    [(rank, reply)] = answers(hub.receive(1, frame(Kind.GATHER, 5, b"key", b"")))
    assert (rank, reply.kind, unpack_blobs(reply.payload)[0]) == (1, Kind.LOST, b"2")


def test_a_gather_survives_a_rank_that_died_after_its_part():
    hub = Hub(2)
    hub.receive(0, frame(Kind.GATHER, 1, b"key", b"last words"))
    assert hub.rank_ended(0, "ended") == []
    [(rank, reply)] = answers(hub.receive(1, frame(Kind.GATHER, 2, b"key", b"alive")))
    assert rank == 1 and unpack_blobs(reply.payload) == [b"last words", b"alive"]


def test_what_needs_a_rank_that_left_is_lost_and_the_next_stay_is_not():
    hub = Hub(3)
    hub.receive(0, frame(Kind.GATHER, 1, b"key", b"", b"0"))
    hub.receive(1, frame(Kind.GET, 2, b"of any", b"0", b""))
    hub.receive(1, frame(Kind.GET, 3, b"of two", b"0", b"2"))
    replies = answers(hub.receive(2, frame(Kind.LEAVE, 4, b"0", b"ValueError: why")))
    assert [(rank, reply.kind, reply.request) for rank, reply in replies] == [
        (0, Kind.LOST, 1),
        (1, Kind.LOST, 3),
        (0, Kind.LEFT, 0),
        (1, Kind.LEFT, 0),
    ]
    assert unpack_blobs(replies[0][1].payload) == [b"2", b"left its world by ValueError: why"]
    assert hub.receive(1, frame(Kind.GATHER, 5, b"key, join 1", b"", b"1")) == []
    replies = answers(hub.rank_ended(0, "ended"))
    assert [(rank, reply.kind, reply.request) for rank, reply in replies] == [
        (1, Kind.LOST, 5),  # the next stay needs rank 0 too
        (1, Kind.LOST, 2),  # nobody is left in this one
    ]
    assert hub.receive(2, frame(Kind.GET, 6, b"of any", b"1", b"")) == [], "rank 1 may still set it"


def test_a_value_reaches_those_who_asked_before_and_after():
    hub = Hub(2)
    assert hub.receive(0, frame(Kind.GET, 1, b"key")) == []
    [(rank, reply)] = answers(hub.receive(1, frame(Kind.SET, 2, b"key", b"value")))
    assert (rank, reply.kind, reply.payload) == (0, Kind.VALUE, b"value")
    [(rank, reply)] = answers(hub.receive(1, frame(Kind.GET, 3, b"key")))
    assert (rank, reply.payload) == (1, b"value")


def test_a_cancelled_gather_says_whom_it_missed():
    hub = Hub(4)
    hub.receive(1, frame(Kind.GATHER, 1, b"key", b""))
    [(_, reply)] = answers(hub.receive(1, frame(Kind.CANCEL, 2, b"key")))
    assert reply.payload == b"0,2,3"
    for rank in (0, 2):
        hub.receive(rank, frame(Kind.GATHER, 1, b"key", b""))
    replies = hub.receive(3, frame(Kind.GATHER, 1, b"key", b""))
    assert sorted(rank for rank, _ in replies) == [0, 2, 3], "who gave up is not answered"


def test_frames_survive_any_cutting():
    data = encode(Kind.SET, 1, b"") + encode(Kind.GET, 2, b"x" * 1000)
    buffer = FrameBuffer()
    frames = [part for byte in data for part in buffer.feed(bytes([byte]))]
    assert frames == [Frame(Kind.SET, 1, b""), Frame(Kind.GET, 2, b"x" * 1000)]


@pytest.fixture
def client():
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours.detach())
        yield HubClient(channel), theirs
        channel.close()


def test_a_reply_to_a_request_that_was_given_up_is_dropped(client, monkeypatch):
    monkeypatch.setattr(rendezvous_module, "_ANSWER_TIMEOUT_S", 0.05)
    rendezvous, hub = client
    with pytest.raises(WaitTimeout):
        rendezvous.get("late", 0.01)
    hub.sendall(encode(Kind.VALUE, 1, b"too late"))  # request 1 was the get, 2 its cancellation
    hub.sendall(encode(Kind.VALUE, 3, b"in time"))
    assert rendezvous.get("next", 1.0) == b"in time"
    assert not rendezvous._channel._replies, "nothing is kept for those who gave up"


def test_a_launcher_that_is_gone_is_an_error_and_no_wait(client):
    rendezvous, hub = client
    hub.close()
    with pytest.raises(WorldError, match="launcher"):
        rendezvous.gather("key", b"", 30.0)


def test_a_lost_answer_is_rank_lost(client):
    rendezvous, hub = client
    hub.sendall(encode(Kind.LOST, 1, pack_blobs(b"3", b"was killed by SIGKILL")))
    with pytest.raises(RankLost, match="SIGKILL") as caught:
        rendezvous.gather("key", b"", 30.0)
    assert caught.value.rank == 3


def test_a_world_of_one_needs_nobody():
    alone = Alone()
    assert alone.gather("key", b"own", 1.0) == [b"own"]
    alone.set("key", b"value", 1.0)
    assert alone.get("key", 1.0) == b"value"
    with pytest.raises(WaitTimeout):
        alone.get("other", 30.0)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"one\ntw", b"o\n"], b"> one\n> two\n"),
        ([b"half"], b"> half\n"),
        ([b"10%\r20%\r"], b"> 10%\r> 20%\r"),
        ([b"", b"\n"], b"> \n"),
    ],
)
def test_lines_are_marked_whole(pieces, expected):
    lines = LinePrefixer(b"> ")
    assert b"".join(map(lines.feed, pieces)) + lines.finish() == expected


def test_a_line_that_never_ends_does_not_fill_memory():
    lines = LinePrefixer(b"")
    assert sum(len(lines.feed(b"x" * 50_000)) for _ in range(100)) > 4_000_000
