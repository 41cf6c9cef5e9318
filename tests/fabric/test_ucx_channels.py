"""A channel a peer: which channel is whose, how large the queues are, and that nobody waits for a full one."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from umem.errors import WaitTimeout
from umem.kernels.build.compile import cpu_kernel

from .ucx_ranks import POSIX, TCP, UCX_KERNELS, Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import channels, queues
from umem.fabric.ucx.fabric import UcxFabric
from umem.fabric.ucx.port import PORT_SPIN_NS

NUM_MESSAGES = 2000  # more than any queue has places
MANY_RANKS = channels.MAX_CHANNELS + 3


@cpu_kernel("int64(int64)", group=UCX_KERNELS)
def progress(address):
    """See `progress_all`."""
    return channels.progress_all(address)


@pytest.mark.parametrize(
    ("environment", "num_ranks", "expected"),
    [
        (POSIX, 1, 1),
        (POSIX, 5, 5),
        (POSIX, MANY_RANKS, channels.MAX_CHANNELS),
        ({}, 3, 3),  # all transports: shared memory too
        (TCP, 5, 1),
    ],
)
def test_every_peer_over_shared_memory_has_a_channel(environment, num_ranks, expected):
    assert channels.num_channels(environment, num_ranks) == expected


@pytest.mark.parametrize("num_channels", [1, 2, 3, 7, 16])
def test_all_queues_together_are_as_large_as_one(num_channels):
    places = int(queues.environment(num_channels)["UCX_POSIX_FIFO_SIZE"])
    assert places & (places - 1) == 0, "UCX takes powers of two"
    assert queues.TOTAL_PLACES // 2 < places * num_channels <= queues.TOTAL_PLACES


def test_what_the_user_says_of_queues_stays(monkeypatch):
    monkeypatch.setenv("UCX_POSIX_FIFO_SIZE", "512")
    assert "UCX_POSIX_FIFO_SIZE" not in queues.environment(2)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["posix", "tcp"])
def test_who_waits_for_one_rank_takes_what_others_send(transport):
    """Rank 0 gets rid of more messages than a queue holds while rank 1 waits for rank 2, which waits for rank 0."""

    def many(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        for number in range(NUM_MESSAGES):
            word[0] = number
            fabric.send(1, word.ctypes.data, 8, tag=1)
        fabric.send(2, word.ctypes.data, 8)
        me.exchange("done", b"")
        me.close()

    def patient(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.recv(2, word.ctypes.data, 8)
        for number in range(NUM_MESSAGES):
            fabric.recv(0, word.ctypes.data, 8, tag=1)
            assert word[0] == number
        me.exchange("done", b"")
        me.close()

    def last(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.recv(0, word.ctypes.data, 8)
        fabric.send(1, word.ctypes.data, 8)
        me.exchange("done", b"")
        me.close()

    run_ranks([many, patient, last], transport)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["posix", "tcp"])
def test_who_asks_one_rank_all_the_time_takes_what_others_send(transport):
    """Rank 0 spins on a word at rank 1, which rank 2 sets behind more messages to rank 0 than a queue holds."""

    def spinning(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.port(1).words[PORT_SPIN_NS] = 10**10  # it never sleeps: then it would look round
        while fabric.fetch_add(1, me.addresses[1], 0, 8) == 0:
            pass
        for number in range(NUM_MESSAGES):
            fabric.recv(2, word.ctypes.data, 8)
            assert word[0] == number
        me.exchange("done", b"")
        me.close()

    def home(me: Rank) -> None:
        me.open(4096)
        me.exchange("done", b"")
        me.close()

    def many(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        for number in range(NUM_MESSAGES):
            word[0] = number
            fabric.send(0, word.ctypes.data, 8)
        fabric.fetch_add(1, me.addresses[1], 1, 8)
        me.exchange("done", b"")
        me.close()

    run_ranks([spinning, home, many], transport)


@pytest.fixture
def two_channels(monkeypatch):
    """As if there were so many ranks that they share two channels."""
    monkeypatch.setattr(channels, "MAX_CHANNELS", 2)


@pytest.mark.timeout(60)
def test_ranks_that_share_channels_reach_each_other(two_channels):
    def one(me: Rank) -> None:
        fabric = me.open(4096)
        assert len(fabric.main.workers) == 2
        fabric.barrier()
        word = np.array([me.rank], np.int64)
        fabric.send((me.rank + 1) % me.num_ranks, word.ctypes.data, 8)
        fabric.recv((me.rank - 1) % me.num_ranks, word.ctypes.data, 8)
        assert word[0] == (me.rank - 1) % me.num_ranks
        assert fabric.fetch_add(0, me.addresses[0], 1, 8) < me.num_ranks
        me.exchange("done", b"")
        if me.rank == 0:
            assert me.memory[:8].view(np.int64)[0] == me.num_ranks
        me.close()

    run_ranks([one] * 5, "posix")


def is_over(fabric: UcxFabric, channel: int) -> bool:
    """Whether nobody looks at the channel any more."""
    at = channels.CHANNEL + channel * channels.CHANNEL_WORDS + channels.CHANNEL_IS_OVER
    return bool(fabric.main.words[at])


@pytest.mark.timeout(60)
def test_a_channel_is_over_once_what_the_dead_had_sent_is_read(two_channels):
    """Ranks 1 and 3 share a channel: it goes on until both are dead, and its queue is empty."""

    def survivor(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.barrier()  # connected: UCX looks at a worker's queue only then
        me.exchange("sent", b"")
        poll_fds = int(fabric.main.words[channels.CHANNELS_POLL_FDS])
        me.bury(1)
        progress(fabric.main.address), progress(fabric.main.address)
        assert not is_over(fabric, 1), "rank 3 is alive"
        me.exchange("looked", b"")
        me.exchange("sent again", b"")
        me.bury(3)
        progress(fabric.main.address)
        assert not is_over(fabric, 1), "it has just been read"
        progress(fabric.main.address)
        assert is_over(fabric, 1) and not is_over(fabric, 0)
        for rank, number in ((1, 7), (3, 8), (3, 9)):
            fabric.recv(rank, word.ctypes.data, 8)
            assert word[0] == number
        fabric.timeout_s = 0.2
        with pytest.raises(WaitTimeout):
            fabric.recv(2, word.ctypes.data, 8)  # asleep: descriptors are armed
        fds = np.ctypeslib.as_array((ctypes.c_int32 * 4).from_address(poll_fds))[::2]
        assert fds[0] >= 0 and fds[1] == -1
        me.exchange("done", b"")
        me.close()

    def sender(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()
        word = np.array([{1: 7, 3: 8}.get(me.rank, 0)], np.int64)
        if word[0]:
            fabric.send(0, word.ctypes.data, 8)
        me.exchange("sent", b"")
        me.exchange("looked", b"")
        if me.rank == 3:
            word[0] = 9
            fabric.send(0, word.ctypes.data, 8)
        me.exchange("sent again", b"")
        me.exchange("done", b"")
        me.close()

    progress.load()
    run_ranks([survivor, sender, sender, sender], "posix")
