"""A rank that dies becomes DEAD on every survivor's control page, and an error for who needs it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umem.agent import Agent, Operation, Request, layout
from umem.errors import FabricMissing, RankLost, WaitTimeout
from umem.kernels import status
from umem.kernels.page.control import CONTROL_HEARTBEAT

from . import handlers
from .ranks import TIMEOUT_S, Rank, needs_ucx, run_ranks, sleep_with_gil, start

needs_ucx()
pytestmark = pytest.mark.timeout(60)
WITH_UCX = pytest.mark.parametrize("transport", ["posix", "tcp"])


def killed(me: Rank) -> None:
    """A rank that serves until another one kills it."""
    start(me)
    me.meet()
    signal.pause()


def free_slots(agent: Agent) -> int:
    return (
        agent.state[layout.AGENT_FREE + layout.RING_TAIL] - agent.state[layout.AGENT_FREE + layout.RING_HEAD]
    )


@pytest.mark.parametrize("transport", [None, "posix", "tcp"])
def test_every_survivor_learns_of_a_death_once_and_stays_calm(transport: str | None) -> None:
    def survivor(me: Rank) -> float:
        start(me)
        page, turns = me.page, me.page.words[CONTROL_HEARTBEAT]
        assert page.dead_ranks() == []
        epoch = page.epoch
        me.meet()
        if me.rank == 0:
            os.kill(me.pids[2], signal.SIGKILL)
        took_s = me.wait_until(lambda: page.dead_ranks() == [2])
        assert page.epoch == epoch + 1
        me.wait_until(lambda: bool(page.words[CONTROL_HEARTBEAT] > turns + 2))
        assert page.epoch == epoch + 1
        if transport is not None:
            assert me.agent.call(1 - me.rank, Operation.PING, b"still here") == b"still here"
        me.close()
        return took_s

    assert run_ranks([survivor, survivor, killed], transport)[2] is None


@WITH_UCX
@pytest.mark.parametrize("num_bytes", [8, 32 << 10])
def test_a_home_that_dies_in_the_middle_of_requests_is_rank_lost(transport: str, num_bytes: int) -> None:
    """One that is being served, some that wait, and those that are sent after the death."""

    def user(me: Rank) -> None:
        client, word = start(me).client, me.word(1)
        payload = np.zeros(num_bytes, np.uint8)
        fields: dict[str, Any] = {"payload": payload.ctypes.data, "payload_bytes": num_bytes, "keep": payload}
        waiting = [client.post(Request(1, handlers.WAIT_FOR_WORD, (word, 1), **fields)) for _ in range(3)]
        me.meet()
        killer = threading.Timer(0.05, os.kill, (me.pids[1], signal.SIGKILL))
        killer.start()
        start_s = time.monotonic()
        with pytest.raises(RankLost, match="rank 1 is dead: operation 129 at rank 1") as caught:
            client.request(1, handlers.WAIT_FOR_WORD, word, 1, **fields)
        assert caught.value.rank == 1
        for ticket in waiting:
            with pytest.raises(RankLost):
                client.finish(ticket)
        for _ in range(layout.DEFAULT_CREDITS + 1):  # refused before they are sent
            with pytest.raises(RankLost):
                client.request(1, Operation.PING)
        assert time.monotonic() - start_s < TIMEOUT_S / 2
        killer.join()
        me.close()

    run_ranks([user, killed], transport)


@WITH_UCX
def test_an_asker_that_dies_leaves_the_home_serving_others(transport: str) -> None:
    """It dies with large replies under way and with a request pending; its slots come back."""

    def home(me: Rank) -> None:
        agent = start(me)
        me.meet()  # rank 1 has asked
        os.kill(me.pids[1], signal.SIGKILL)
        me.wait_until(lambda: me.page.dead_ranks() == [1])
        me.words()[0] = 1  # what its pending requests wait for
        me.meet()

        me.wait_until(lambda: free_slots(agent) == agent.state[layout.AGENT_NUM_SLOTS])
        me.close()

    def killed_asker(me: Rank) -> None:
        client, size = start(me).client, layout.MAX_PAYLOAD_BYTES
        room = np.zeros(size, np.uint8)
        client.request(0, Operation.PING)  # connected: what follows leaves at once
        for index in range(layout.DEFAULT_CREDITS):
            pending = Request(0, handlers.WAIT_FOR_WORD, (me.word(0), 1))
            large = Request(0, handlers.FILL, (size, 1), dst=room.ctypes.data, capacity=size)
            client.post(pending if index < 2 else large)
        me.meet()
        signal.pause()

    def other_asker(me: Rank) -> None:
        client = start(me).client
        me.meet()
        me.meet()
        replies = client.stream([Request(0, Operation.PING)] * 50)
        assert all(reply.status == status.OK for _, reply in replies)
        me.close()

    run_ranks([home, killed_asker, other_asker], transport)


@pytest.mark.parametrize("transport", [None, "posix"])
def test_a_rank_that_died_before_the_agent_began_is_dead_from_the_start(transport: str | None) -> None:
    def late(me: Rank) -> None:
        os.kill(me.pids[1], signal.SIGKILL)
        me.wait_until(lambda: has_ended(me.pids[1]))
        agent = me.start()
        me.wait_until(lambda: me.page.dead_ranks() == [1])
        if transport is not None:
            with pytest.raises(RankLost):
                agent.call(1, Operation.PING)
        me.close()

    def gone(me: Rank) -> None:
        signal.pause()

    run_ranks([late, gone], transport)


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that its parent has not reaped."""
    return states_of_threads(pid) <= {"Z"}


def states_of_threads(pid: int) -> set[str]:
    """How the kernel calls the states of a process's threads: R, S, T (stopped), Z."""
    stats = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended in between
            stats.append(path.read_text())
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


@WITH_UCX
def test_a_peer_that_is_stopped_is_a_timeout_not_a_death(transport: str) -> None:
    def user(me: Rank) -> None:
        client = start(me).client
        client.request(1, Operation.PING)
        os.kill(me.pids[1], signal.SIGSTOP)
        me.wait_until(lambda: states_of_threads(me.pids[1]) == {"T"})
        try:
            with pytest.raises(WaitTimeout, match="PING at rank 1"):
                client.request(1, Operation.PING, timeout_s=0.3)
            assert me.page.dead_ranks() == []
        finally:
            os.kill(me.pids[1], signal.SIGCONT)
        assert client.request(1, Operation.PING).status == status.OK
        me.close()

    def home(me: Rank) -> None:
        start(me)
        me.close()

    run_ranks([user, home], transport)


def test_without_ucx_asking_says_what_to_install() -> None:
    def alone(me: Rank) -> None:
        agent = me.start()
        with pytest.raises(FabricMissing, match="umem\\[ucx\\]"):
            agent.call(0, Operation.PING)
        me.close()

    run_ranks([alone], None)


@WITH_UCX
def test_deaths_are_seen_while_the_main_thread_holds_the_gil(transport: str) -> None:
    def survivor(me: Rank) -> None:
        start(me)
        me.meet()
        before = me.page.epoch
        os.kill(me.pids[1], signal.SIGKILL)
        sleep_with_gil(0.5)
        assert me.page.epoch == before + 1
        assert me.page.dead_ranks() == [1]
        me.close()

    run_ranks([survivor, killed], transport)
