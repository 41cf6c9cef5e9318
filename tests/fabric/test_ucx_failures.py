"""Waits end: by deadline, signal, death of the peer, end of the space; and what they leave does no harm."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from umem.errors import FabricError, Interrupted, RankLost, WaitTimeout
from umem.fabric.ucx import operations
from umem.kernels.page.control import CONTROL_STOP

from .ucx_ranks import Rank, run_ranks

pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

SHORT_S = 0.3
SLICE_S = 0.05
SLACK_S = 1.0  # what a loaded machine may add


class Stopped(Exception):
    """Raised by the test's signal handler, as KeyboardInterrupt is by Ctrl-C."""


def test_a_receive_that_timed_out_swallows_no_later_message(transport):
    def receiver(me: Rank) -> list[int]:
        fabric, word, lost = me.open(4096), np.zeros(1, np.int64), np.zeros(1, np.int64)
        fabric.timeout_s = SHORT_S
        with pytest.raises(WaitTimeout, match="recv with rank 1"):
            fabric.recv(1, lost.ctypes.data, 8)
        fabric.timeout_s = 10
        me.exchange("now", b"")
        fabric.recv(1, word.ctypes.data, 8)
        me.close()
        return [int(lost[0]), int(word[0])]

    def sender(me: Rank) -> None:
        fabric, word = me.open(4096), np.array([77], np.int64)
        me.exchange("now", b"")
        fabric.send(0, word.ctypes.data, 8)
        me.close()

    assert run_ranks([receiver, sender], transport)[0] == [0, 77]


def test_operations_that_timed_out_harm_no_later_one_nor_themselves(transport):
    """The home serves only after two operations have timed out and a third has begun.

    UCX may read a given-up operation's operands when the home answers at last, and write its result.
    """

    def user(me: Rank) -> tuple[int, int, list[int]]:
        fabric, dst, late = me.open(4096), np.zeros(2, np.int64), np.zeros(1, np.int64)
        fabric.timeout_s = SHORT_S
        with pytest.raises(WaitTimeout):
            fabric.compare_swap(1, me.addresses[1], 1, 111, 8)
        with pytest.raises(WaitTimeout):
            fabric.get(1, me.addresses[1], late.ctypes.data, 8, keep=late)
        fabric.timeout_s = 10
        me.exchange("serve", b"")
        first = fabric.fetch_add(1, me.addresses[1] + 8, 5, 8)
        second = fabric.fetch_add(1, me.addresses[1] + 8, 5, 8)
        fabric.get(1, me.addresses[1], dst.ctypes.data, 16)
        ports = {fabric.ports.take(1).address for _ in range(8)}
        assert not fabric.ports._given_up, "what has been answered since is free again"
        assert len(ports) == 8, "and nobody else has its port"
        me.exchange("done", b"")
        me.close()
        return first, second, dst.tolist()

    def home(me: Rank) -> None:
        me.open(4096, is_served=False)
        me.memory.view(np.int64)[0] = 1
        me.exchange("serve", b"")
        threading.Event().wait(SHORT_S)  # the user's next operation starts before it is answered
        me.start_serving()
        me.exchange("done", b"")
        me.close()

    assert run_ranks([user, home], transport)[0] == (0, 5, [111, 10])


def test_a_put_returns_only_when_the_bytes_are_at_its_home(transport):
    def user(me: Rank) -> None:
        fabric, word = me.open(4096), np.array([5], np.int64)
        fabric.put(1, me.addresses[1], word.ctypes.data, 8)
        me.exchange("put", b"")
        me.exchange("hang", b"")
        fabric.timeout_s = SHORT_S
        with pytest.raises(WaitTimeout, match="put with rank 1"):
            fabric.put(1, me.addresses[1], word.ctypes.data, 8, keep=word)
        me.exchange("done", b"")
        me.close()

    def home(me: Rank) -> None:
        me.open(4096)
        me.exchange("put", b"")
        me.stop_serving()
        me.exchange("hang", b"")
        me.exchange("done", b"")
        me.close()

    run_ranks([user, home], transport)


@pytest.mark.parametrize("call", ["recv", "get", "fetch_add", "barrier"])
def test_a_dead_peer_is_rank_lost_and_closing_does_not_wait_for_it(transport, call):
    def survivor(me: Rank) -> float:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.get(1, me.addresses[1], word.ctypes.data, 8)
        pid = int(me.exchange("pid", b"")[1])
        watcher = me.bury_when_dead(1, pid)
        calls = {
            "recv": lambda: fabric.recv(1, word.ctypes.data, 8),
            "get": lambda: [fabric.get(1, me.addresses[1], word.ctypes.data, 8) for _ in range(1 << 30)],
            "fetch_add": lambda: [fabric.fetch_add(1, me.addresses[1], 1, 8) for _ in range(1 << 30)],
            "barrier": fabric.barrier,
        }
        for _ in range(2):  # while it dies, and of one known to be dead
            with pytest.raises(RankLost) as caught:
                calls[call]()
            assert caught.value.rank == 1
        watcher.join()
        assert me.close() < SLACK_S
        return 1.0

    def victim(me: Rank) -> None:
        me.open(4096)
        me.exchange("pid", str(os.getpid()).encode())
        threading.Event().wait(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_ranks([survivor, victim], transport)[0] == 1.0


@pytest.mark.parametrize("call", ["send", "recv", "get", "fetch_add"])
def test_a_peer_that_died_before_the_first_contact_is_rank_lost(transport, call):
    def survivor(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        watcher = me.bury_when_dead(1, int(me.exchange("pid", b"")[1]))
        watcher.join()
        calls = {
            "send": lambda: fabric.send(1, word.ctypes.data, 8),
            "recv": lambda: fabric.recv(1, word.ctypes.data, 8),
            "get": lambda: fabric.get(1, me.addresses[1], word.ctypes.data, 8),
            "fetch_add": lambda: fabric.fetch_add(1, me.addresses[1], 1, 8),
        }
        with pytest.raises(RankLost):
            calls[call]()
        me.close()

    def victim(me: Rank) -> None:
        me.open(4096)
        me.exchange("pid", str(os.getpid()).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    run_ranks([survivor, victim], transport)


def test_what_a_rank_sent_before_it_left_is_received_after_its_end(transport):
    def leaver(me: Rank) -> None:
        fabric, word = me.open(4096), np.array([9], np.int64)
        fabric.barrier()
        me.exchange("pid", str(os.getpid()).encode())
        fabric.send(1, word.ctypes.data, 8)
        fabric.barrier()
        me.control[CONTROL_STOP] = 1  # as a closing space does
        me.close()

    def late(me: Rank) -> list[int]:
        fabric, word, recv = me.open(4096), np.zeros(1, np.int64), operations.recv
        fabric.barrier()
        watcher = me.bury_when_dead(0, int(me.exchange("pid", b"")[0]))

        def recv_late(*arguments: int) -> int:
            watcher.join()
            return recv(*arguments)

        operations.recv = recv_late
        fabric.barrier()  # its other half has left it, and ended, before this half looks
        operations.recv = recv
        fabric.recv(0, word.ctypes.data, 8)
        with pytest.raises(RankLost):
            fabric.recv(0, word.ctypes.data, 8)
        me.close()
        return word.tolist()

    assert run_ranks([leaver, late], transport)[1] == [9]


def test_a_barrier_names_the_dead_rank_to_those_who_wait_for_others(transport):
    """Rank 0 hears from rank 2 and tells rank 1; rank 3 is no partner of its first round."""

    def member(me: Rank) -> int:
        fabric = me.open(4096)
        fabric.barrier()
        pids = me.exchange("pid", str(os.getpid()).encode())
        watcher = me.bury_when_dead(3, int(pids[3]))
        with pytest.raises(RankLost) as caught:
            fabric.barrier()
        watcher.join()
        me.close()
        return caught.value.rank

    def victim(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()
        me.exchange("pid", str(os.getpid()).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_ranks([member, member, member, victim], transport)[:3] == [3, 3, 3]


def test_an_unconfirmed_loss_of_connection_is_a_fabric_error(transport):
    if transport == "posix":
        pytest.skip("over shared memory a death shows only by its confirmation")

    def survivor(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        fabric.get(1, me.addresses[1], word.ctypes.data, 8)
        me.exchange("dying", b"")
        with pytest.raises(FabricError, match=r"get with rank 1 .*\(-25\)"):
            for _ in range(1 << 30):
                fabric.get(1, me.addresses[1], word.ctypes.data, 8)
        me.close()

    def victim(me: Rank) -> None:
        me.open(4096)
        me.exchange("dying", b"")
        os.kill(os.getpid(), signal.SIGKILL)

    run_ranks([survivor, victim], transport)


def test_a_signal_is_seen_within_two_slices_and_the_fabric_goes_on(transport):
    def waiter(me: Rank) -> int:
        def stop(signum: int, frame: object) -> None:
            raise Stopped

        fabric, word = me.open(4096), np.zeros(1, np.int64)
        me.exchange("open", b"")
        signal.signal(signal.SIGALRM, stop)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SHORT_S)
        with pytest.raises(Stopped):
            fabric.recv(1, word.ctypes.data, 8)
        assert time.monotonic() - began < SHORT_S + 2 * SLICE_S + SLACK_S
        me.exchange("now", b"")
        fabric.recv(1, word.ctypes.data, 8)
        me.close()
        return int(word[0])

    def sender(me: Rank) -> None:
        fabric, word = me.open(4096), np.array([5], np.int64)
        me.exchange("open", b"")
        me.exchange("now", b"")
        fabric.send(0, word.ctypes.data, 8)
        me.close()

    assert run_ranks([waiter, sender], transport)[0] == 5


def test_a_closing_space_ends_waits(transport):
    def waiter(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)

        def end() -> None:
            me.control[CONTROL_STOP] = 1

        timer = threading.Timer(SHORT_S, end)
        timer.start()
        with pytest.raises(Interrupted, match="the space is closing"):
            fabric.recv(0, word.ctypes.data, 8)
        timer.join()
        me.close()

    run_ranks([waiter], transport)
