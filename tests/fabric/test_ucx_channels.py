"""A channel a peer: which channel is whose, how large the queues are, and that nobody waits for a full one."""

from __future__ import annotations

import numpy as np
import pytest

from .ucx_ranks import POSIX, TCP, Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import channels

NUM_MESSAGES = 2000  # more than any queue has places
MANY_RANKS = channels.MAX_CHANNELS + 3


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
    places = int(channels.queue_environment(num_channels)["UCX_POSIX_FIFO_SIZE"])
    assert places & (places - 1) == 0, "UCX takes powers of two"
    assert channels.QUEUE_PLACES // 2 < places * num_channels <= channels.QUEUE_PLACES


def test_what_the_user_says_of_queues_stays(monkeypatch):
    monkeypatch.setenv("UCX_POSIX_FIFO_SIZE", "512")
    assert "UCX_POSIX_FIFO_SIZE" not in channels.queue_environment(2)


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
def test_ranks_that_share_channels_reach_each_other(transport):
    def one(me: Rank) -> None:
        fabric = me.open(4096)
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

    run_ranks([one] * MANY_RANKS, transport)
