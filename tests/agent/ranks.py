"""Ranks for tests of the agent below the space: forked processes with real segments that meet over pipes.

No rank maps another's memory. With transport "tcp" every rank has a host of its own, so that deaths are
told by connections; with "posix" all share one, and pidfds tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import pytest

from umem import config
from umem.agent import Agent, bind_ucx
from umem.agent.serving.near_handlers import NEAR_TYPE_KERNELS
from umem.errors import FabricMissing, RankLost
from umem.fabric.ucx import library
from umem.fabric.ucx.fabric import UcxFabric
from umem.kernels.build.compile import load_all
from umem.kernels.page.control import CONTROL_BYTES
from umem.kernels.page.gate import MAX_ASKED_BYTES
from umem.memory.address import AddressMap, Kind
from umem.memory.control_page import ControlPage
from umem.memory.segment import Segments

from .handlers import HANDLERS

TRANSPORTS = {
    "posix": {"UCX_TLS": "posix,self"},
    "tcp": {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"},
}
SEGMENT_BYTES = 4 << 20
TIMEOUT_S = 20.0  # of one wait of a test
END_S = 40.0  # of a whole test
LIBC_WITH_GIL = ctypes.PyDLL(None)  # calls through it keep the GIL


def needs_ucx() -> None:
    """Skip the calling test or module where there is no libucp."""
    try:
        library.load()
    except FabricMissing as error:
        pytest.skip(str(error), allow_module_level=True)


class Rank:
    """What a test's function gets: a world of its own making, with an agent, a fabric and memory."""

    def __init__(self, rank: int, num_ranks: int, transport: str | None, link: Connection):
        self.rank, self.num_ranks, self._link = rank, num_ranks, link
        self.core: int | None = None
        self.usable_cores = sorted(os.sched_getaffinity(0))
        self.ucx_environment = TRANSPORTS.get(transport or "", {})
        self.hosts = [f"host {rank if transport == 'tcp' else 0}" for rank in range(num_ranks)]
        self.pids = [int(blob) for blob in self.exchange(str(os.getpid()).encode())]
        self._pidfds: dict[int, int] = {}
        self._agents: list[Agent] = []  # their memory is UCX's until the fabric is closed
        plan = AddressMap.plan(num_ranks, SEGMENT_BYTES, SEGMENT_BYTES, CONTROL_BYTES)
        self.segments = Segments(self, plan)
        self.segments.connect()
        self.page = ControlPage(self.segments.view(self.segments.control, CONTROL_BYTES).view(np.int64))
        self.page.initialise(rank, plan, has_own_core=num_ranks <= len(os.sched_getaffinity(0)))
        self.page.admit([7 if peer == rank else 0 for peer in range(num_ranks)])
        self.fabric = None
        if transport is not None:
            self.fabric = UcxFabric(self, self.segments.control, self.segments.regions, TIMEOUT_S)
        self.agent: Agent

    def exchange(self, key: str | bytes, blob: bytes | None = None) -> list[bytes]:
        """Everybody's blob, by rank. Collective."""
        self._link.send(("exchange", key if blob is None else blob))
        assert self._link.poll(END_S), key
        return self._link.recv()

    def meet(self) -> None:
        """Wait for every rank that still runs. Collective."""
        self.exchange(b"")

    def may_map(self, rank: int) -> bool:
        return rank == self.rank

    def share_fds(self, key: str, fds: list[int]) -> dict[int, list[int]]:
        return {self.rank: fds}

    def shares_pids(self, rank: int) -> bool:
        return True

    def pidfd(self, rank: int) -> int:
        if rank not in self._pidfds:
            try:
                self._pidfds[rank] = os.pidfd_open(self.pids[rank])
            except ProcessLookupError:
                raise RankLost(rank) from None
        return self._pidfds[rank]

    def start(self, **settings: Any) -> Agent:
        """An agent that serves. Collective."""
        self.agent = Agent(self, self.segments.control, self.fabric, **settings)
        self._agents.append(self.agent)
        self.agent.start()
        self.meet()
        return self.agent

    def close(self) -> None:
        """Wait for the others, then end the agent and the fabric. Collective."""
        self.meet()
        self.agent.close()
        if self.fabric is not None:
            self.fabric.close()

    def word(self, rank: int, index: int = 0) -> int:
        """Address of a word in the linear part of a rank's segment."""
        return self.segments.map.slot_address(rank, Kind.DEVICE) + 8 * index

    def words(self, num_words: int = 512) -> np.ndarray:
        """This rank's own first words."""
        return self.segments.view(self.word(self.rank), 8 * num_words).view(np.int64)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> float:
        """Poll `condition` until it holds; seconds that took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < timeout_s, "it never came true"
            time.sleep(0.0005)
        return time.monotonic() - start


def start(me: Rank, **settings: Any) -> Agent:
    """An agent that serves with the tests' handlers too. Collective."""
    agent = me.start(**settings)
    agent.serve_other_types()
    for operation, handler in HANDLERS.items():
        agent.register(operation, handler, context=1000 + me.rank)
    me.meet()
    return agent


def put(me: Rank, rank: int, address: int, data: np.ndarray) -> None:
    """Write `data` to a home by requests to its agent: these worlds' UCX reaches no segment."""
    for offset, num_bytes in _parts(data):
        me.agent.remote.put(rank, address + offset, data.ctypes.data + offset, num_bytes)


def get(me: Rank, rank: int, address: int, data: np.ndarray) -> None:
    """Fill `data` from a home in the same way."""
    for offset, num_bytes in _parts(data):
        me.agent.remote.get(rank, address + offset, data.ctypes.data + offset, num_bytes)


def _parts(data: np.ndarray) -> list[tuple[int, int]]:
    firsts = range(0, data.nbytes, MAX_ASKED_BYTES)
    return [(first, min(MAX_ASKED_BYTES, data.nbytes - first)) for first in firsts]


def sleep_with_gil(seconds: float) -> None:
    """One call that keeps the GIL, as a busy extension does, but leaves the core to others."""
    LIBC_WITH_GIL.usleep(int(seconds * 1e6))


Work = Callable[[Rank], Any]


def run_ranks(work: Sequence[Work], transport: str | None) -> list[Any]:
    """Run one function a rank, each in its own process; their results. A rank that is killed gives None.

    Fails with the first rank's traceback, or after END_S. Every process is ended.
    """
    bind_ucx()
    load_all(groups=("core", "ucx", NEAR_TYPE_KERNELS))  # a fork of a process that compiles hangs
    fork = multiprocessing.get_context("fork")
    links, processes = [], []
    for rank, function in enumerate(work):
        here, there = fork.Pipe()
        arguments = (function, rank, len(work), transport, there)
        process = fork.Process(target=_rank_main, args=arguments)
        process.start()
        there.close()
        links.append(here)
        processes.append(process)
    try:
        return _hub(links)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank_main(work: Work, rank: int, num_ranks: int, transport: str | None, link: Connection) -> None:
    with contextlib.suppress(BrokenPipeError):
        try:
            with config.environment({"UCX_LOG_LEVEL": "error"}):
                link.send(("result", work(Rank(rank, num_ranks, transport, link))))
        except BaseException:  # noqa: BLE001 - whatever a rank meets is the test's to report
            link.send(("failure", traceback.format_exc()))
    os._exit(0)  # pytest's own exit handlers are the parent's


def _hub(links: list[Connection]) -> list[Any]:
    """Serve exchanges until every rank has returned or died."""
    results: list[Any] = [None] * len(links)
    running = dict(zip(links, range(len(links)), strict=True))
    blobs: dict[int, bytes] = {}
    deadline = time.monotonic() + END_S
    while running:
        ready = wait(list(running), max(0.0, deadline - time.monotonic()))
        assert ready, f"ranks {sorted(running.values())} did not end within {END_S} s"
        for link in ready:
            assert isinstance(link, Connection)
            rank = running[link]
            try:
                kind, value = link.recv()
            except (EOFError, ConnectionResetError):
                link.close()
                del running[link]
                continue
            assert kind != "failure", f"rank {rank}: {value}"
            if kind == "result":
                results[rank] = value
            else:
                blobs[rank] = value
        if running and len(blobs) == len(running):
            everybody = [blobs.get(rank, b"") for rank in range(len(links))]
            blobs.clear()
            for link in running:
                link.send(everybody)
    return results
