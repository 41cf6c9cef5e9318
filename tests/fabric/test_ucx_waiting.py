"""The compiled wait sleeps or polls as told, wakes for a message, and gives its core away."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from umem.errors import WaitTimeout
from umem.kernels import status
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.intrinsics.scalar import load_i64
from umem.kernels.page.control import CONTROL_SPIN_ROUNDS

from .ucx_ranks import UCX_KERNELS, Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import calls, operations
from umem.fabric.ucx.port import POLITE, POLLING, PORT_CHANNELS, PORT_NUM_SLEEPS, PORT_NUM_YIELDS, PORT_PLAIN
from umem.fabric.ucx.turns import end_turn, take_turn
from umem.fabric.ucx.waiting import wait_request

pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

NUM_ROUNDS = 200
LONG_S = 0.4
TAG = 1
FIELDS = "int64(int64, int64, int64, int64, int64, int64, int64, int64)"

tag_send, tag_recv = calls.tag_send, calls.tag_recv


@cpu_kernel(FIELDS, group=UCX_KERNELS)
def toss(port, worker, endpoint, other, buffer, num_rounds, is_first, how):
    """Send a word to and fro `num_rounds` times, the second side returns what it got."""
    code = take_turn(load_i64(port, PORT_CHANNELS))
    while num_rounds > 0:
        if is_first != 0:
            code = wait_request(port, tag_send(endpoint, buffer, 8, TAG, port + 8 * PORT_PLAIN), other, how)
        if code == status.OK:
            request = tag_recv(worker, buffer + 8, 8, TAG, -1, port + 8 * PORT_PLAIN)
            code = status.AGAIN
            while code == status.AGAIN:
                code = wait_request(port, request, other, how)
        if code == status.OK and is_first == 0:
            code = wait_request(
                port, tag_send(endpoint, buffer + 8, 8, TAG, port + 8 * PORT_PLAIN), other, how
            )
        if code != status.OK:
            break
        num_rounds -= 1
    end_turn(load_i64(port, PORT_CHANNELS))
    return code


def player(how: int, core: int | None = None):
    """A rank that plays with its neighbour; gives how often it slept and yielded."""

    def play(me: Rank) -> tuple[int, int]:
        if core is not None:
            os.sched_setaffinity(0, {core})
        fabric, words = me.open(4096), np.array([7, 0], np.int64)
        me.control[CONTROL_SPIN_ROUNDS] = 20
        other = me.rank ^ 1
        endpoint = fabric.peers[other].messages.handle
        places = (
            fabric.port(other).address,
            fabric.main.of(other).handle,
            endpoint,
            other,
            words.ctypes.data,
        )
        assert toss(*places, NUM_ROUNDS, int(me.rank < other), how) == status.OK
        counts = (
            int(fabric.port(other).words[PORT_NUM_SLEEPS]),
            int(fabric.port(other).words[PORT_NUM_YIELDS]),
        )
        assert words[1] == 7
        me.exchange("done", b"")
        me.close()
        return counts

    return play


def test_polling_ranks_on_one_core_yield_and_never_sleep(transport):
    core = min(os.sched_getaffinity(0))
    counts = run_ranks([player(POLLING, core)] * 4, transport)
    assert all(num_sleeps == 0 and num_yields > 0 for num_sleeps, num_yields in counts)


def test_polite_ranks_on_one_core_sleep_and_are_woken(transport):
    core = min(os.sched_getaffinity(0))
    counts = run_ranks([player(POLITE, core)] * 4, transport)
    assert all(num_sleeps > 0 and num_yields == 0 for num_sleeps, num_yields in counts)


def test_compiled_code_is_told_of_a_dead_peer_at_once(transport):
    def survivor(me: Rank) -> int:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        endpoint = fabric.peers[1].messages.handle
        me.exchange("connected", b"")
        me.bury(1)
        assert operations.flush(fabric.port(1).address, 1, endpoint) == status.RANK_LOST
        code = operations.recv(fabric.port(1).address, 1, word.ctypes.data, 8, 1 << 48)
        me.close()
        return code

    def dead(me: Rank) -> None:
        me.open(4096)
        me.exchange("connected", b"")
        me.close()

    assert run_ranks([survivor, dead], transport)[0] == status.RANK_LOST


def test_a_long_polite_wait_sleeps_instead_of_computing(transport):
    def waiter(me: Rank) -> tuple[float, int]:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.barrier()
        fabric.timeout_s = LONG_S
        slept_before, worked_before = int(fabric.port(1).words[PORT_NUM_SLEEPS]), time.thread_time()
        with pytest.raises(WaitTimeout):
            fabric.recv(1, word.ctypes.data, 8)
        worked_s = time.thread_time() - worked_before
        me.exchange("done", b"")
        me.close()
        return worked_s, int(fabric.port(1).words[PORT_NUM_SLEEPS]) - slept_before

    def other(me: Rank) -> None:
        me.open(4096).barrier()
        me.exchange("done", b"")
        me.close()

    worked_s, num_sleeps = run_ranks([waiter, other], transport)[0]
    assert worked_s < LONG_S / 4
    assert num_sleeps <= 20  # a slice each, not a spin
