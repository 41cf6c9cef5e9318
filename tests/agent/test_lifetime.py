"""How an agent begins and ends: nothing is left, nobody hangs, and an idle one costs next to nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from umem.agent import Operation, Request, layout
from umem.errors import WorldError
from umem.kernels import status

from . import handlers
from .ranks import END_S, Rank, needs_ucx, run_ranks, start

needs_ucx()
pytestmark = pytest.mark.timeout(60)
WITH_UCX = pytest.mark.parametrize("transport", ["posix", "tcp"])


@WITH_UCX
def test_closing_answers_what_still_waits_and_leaves_nothing(transport: str) -> None:
    def user(me: Rank) -> None:
        client, word = start(me).client, me.word(1)
        waiting = [client.post(Request(1, handlers.WAIT_FOR_WORD, (word, 1))) for _ in range(3)]
        client.request(1, Operation.PING)
        me.meet()  # the home closes its agent
        for ticket in waiting:
            assert client.finish(ticket).status == layout.CLOSING
        me.meet()
        me.agent.close()
        me.fabric.close()

    def home(me: Rank) -> None:
        start(me)
        me.meet()
        me.agent.close()
        me.agent.close()  # again: nothing happens
        assert not me.agent.is_running
        assert [t.name for t in threading.enumerate()] == ["MainThread"]
        with pytest.raises(WorldError, match="closed"):
            me.agent.call(0, Operation.PING)
        me.meet()
        me.fabric.close()

    run_ranks([user, home], transport)


@pytest.mark.parametrize("transport", [None, "posix", "tcp"])
def test_agents_come_and_go_without_leaving_threads_or_descriptors(transport: str | None) -> None:
    def rank(me: Rank) -> None:
        num_threads = len(os.listdir("/proc/self/task"))  # UCX has one of its own
        for peer in range(me.num_ranks):
            me.pidfd(peer)
        num_fds = []
        for _ in range(4):
            me.start()
            assert len(os.listdir("/proc/self/task")) == num_threads + 1
            me.meet()
            me.agent.close()
            me.wait_until(lambda: len(os.listdir("/proc/self/task")) == num_threads)
            me.meet()
            num_fds.append(len(os.listdir("/proc/self/fd")))
        if transport != "tcp":  # there every agent has a connection of its own, which its worker closes
            assert num_fds[-1] == num_fds[0]

    run_ranks([rank, rank], transport)


@pytest.mark.timeout(120)  # another process may be compiling what this one loads
def test_an_agent_runs_where_no_ucx_is_installed(tmp_path: Path) -> None:
    """Liveness alone: the symbols of libucp are bound to stubs that nothing calls."""
    program = """
from tests.agent.ranks import run_ranks
from umem.fabric.ucx import library

def rank(me):
    assert not library.is_available()
    agent = me.start()
    me.wait_until(lambda: agent.counters()["sleeps"] >= 2)
    me.close()
    return me.page.dead_ranks()

assert run_ranks([rank, rank], None) == [[], []]
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "UMEM_UCX": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True, timeout=100)


@WITH_UCX
def test_a_fork_of_a_rank_has_no_agent_and_does_not_disturb_its_parents(transport: str) -> None:
    def rank(me: Rank) -> None:
        agent = start(me)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.raises(WorldError, match=f"fork of rank {me.rank}"):
                    agent.call(1 - me.rank, Operation.PING)
                agent.close()
                del agent, me.agent
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert agent.is_running
        for _ in range(10):
            assert agent.call(1 - me.rank, Operation.PING, b"parent") == b"parent"
        me.close()

    run_ranks([rank, rank], transport)


@WITH_UCX
def test_ctrl_c_ends_a_wait_and_later_requests_work(transport: str) -> None:
    def user(me: Rank) -> float:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        client, word = start(me).client, me.word(1)
        sent_s: list[float] = []

        def interrupt() -> None:
            sent_s.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.12, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.request(1, handlers.WAIT_FOR_WORD, word, 1)
        seen_s = time.monotonic()
        timer.join()
        me.agent.remote.fetch_add(1, word, 1, 8)
        assert client.request(1, handlers.WAIT_FOR_WORD, word, 1).status == status.OK
        me.close()
        return seen_s - sent_s[0]

    def home(me: Rank) -> None:
        start(me)
        me.close()

    assert run_ranks([user, home], transport)[0] < END_S / 10


@WITH_UCX
def test_a_rank_that_forgets_to_close_still_ends(transport: str) -> None:
    """As a script does that falls off its end: interpreter exit with the thread running."""

    def rank(me: Rank) -> None:
        agent = start(me)
        agent.call(1 - me.rank, Operation.PING)
        me.meet()
        agent._end()  # what is registered to run at exit
        assert not agent.is_running

    run_ranks([rank, rank], transport)


@pytest.mark.parametrize("transport", [None, "posix", "tcp"])
def test_idle_agents_sleep(transport: str | None) -> None:
    """Turns of the loop, not seconds: about 5 a second each; a loop that polled would make thousands."""
    num_ranks, idle_s = 4, 1.0

    def rank(me: Rank) -> tuple[int, float]:
        agent = me.start()
        if transport is not None:
            for peer in range(me.num_ranks):
                agent.call(peer, Operation.PING)
        me.meet()
        time.sleep(0.3)  # connections settle
        sleeps, cpu_s = agent.counters()["sleeps"], time.process_time()
        time.sleep(idle_s)
        cpu_s = time.process_time() - cpu_s
        sleeps = agent.counters()["sleeps"] - sleeps
        me.close()
        return sleeps, cpu_s

    results = run_ranks([rank] * num_ranks, transport)
    assert all(1 <= sleeps <= 100 for sleeps, _ in results), results
    assert sum(cpu_s for _, cpu_s in results) < 0.5 * idle_s, results
