"""Ranks that are killed in the middle of a message leave the living reachable for each other.

UCX's senders over shared memory share the receiver's queue: each takes the next place, then fills it. The place of one
that died between the two is never filled, and behind it nothing is read. So a queue must have one sender.
"""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest

from umem.kernels import status
from umem.kernels.build.compile import cpu_kernel

from .ucx_ranks import END_S, UCX_KERNELS, Rank, run_ranks

# isort: split
# after ucx_ranks, which skips the tests where there is no UCX
from umem.fabric.ucx import calls
from umem.fabric.ucx.channels import MAX_CHANNELS
from umem.fabric.ucx.port import POLLING, PORT_PLAIN
from umem.fabric.ucx.waiting import wait_request

pytestmark = pytest.mark.timeout(90)

NUM_VICTIMS = 12
MESSAGE_BYTES = 4096  # copied between taking a place and filling it
TAG = 1
ANSWER_S = 5.0
assert NUM_VICTIMS + 2 <= MAX_CHANNELS, "else some share a queue with those who live"

tag_send, tag_recv = calls.tag_send, calls.tag_recv


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def drain(port, worker, rank, buffer, tag):
    """Receive words from `rank` for as long as it lives."""
    while True:
        request = tag_recv(worker, buffer, MESSAGE_BYTES, tag, -1, port + 8 * PORT_PLAIN)
        code = status.AGAIN
        while code == status.AGAIN:
            code = wait_request(port, request, rank, POLLING)
        if code != status.OK:
            return code


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def flood(port, endpoint, rank, buffer, tag):
    """Send words to `rank` for as long as this process lives."""
    code = status.OK
    while code in (status.OK, status.AGAIN):
        code = wait_request(
            port, tag_send(endpoint, buffer, MESSAGE_BYTES, tag, port + 8 * PORT_PLAIN), rank, POLLING
        )
    return code


def test_who_is_killed_while_it_sends_leaves_others_reachable():
    def receiver(me: Rank) -> None:
        fabric, word = me.open(4096, timeout_s=ANSWER_S), np.zeros(MESSAGE_BYTES // 8, np.int64)
        pids = [int(pid) for pid in me.exchange("pids", str(os.getpid()).encode())]
        for victim in range(2, me.num_ranks):
            watcher = me.bury_when_dead(victim, pids[victim])
            fabric.send(1, word.ctypes.data, 8)
            fabric.send(victim, word.ctypes.data, 8)
            places = (fabric.port(victim).address, fabric.main.of(victim).handle)
            assert drain(*places, victim, word.ctypes.data, victim << 48 | TAG) == status.RANK_LOST
            watcher.join()
            fabric.recv(1, word.ctypes.data, 8)
            assert word[0] == victim
        me.close()

    def killer(me: Rank) -> None:
        fabric, word = me.open(4096, timeout_s=ANSWER_S), np.zeros(MESSAGE_BYTES // 8, np.int64)
        pids = [int(pid) for pid in me.exchange("pids", str(os.getpid()).encode())]
        for victim in range(2, me.num_ranks):
            fabric.recv(0, word.ctypes.data, 8)
            time.sleep(random.random() * 0.02 + 0.02)
            os.kill(pids[victim], signal.SIGKILL)
            word[0] = victim
            fabric.send(0, word.ctypes.data, 8)
        me.close()

    def victim(me: Rank) -> None:
        fabric, word = me.open(4096, timeout_s=END_S), np.zeros(MESSAGE_BYTES // 8, np.int64)
        me.exchange("pids", str(os.getpid()).encode())
        fabric.recv(0, word.ctypes.data, 8)
        flood(
            fabric.port(0).address, fabric.peers[0].messages.handle, 0, word.ctypes.data, me.rank << 48 | TAG
        )

    flood.load(), drain.load()  # a rank that compiled would be killed before it sends
    run_ranks([receiver, killer, *[victim] * NUM_VICTIMS], "posix")
