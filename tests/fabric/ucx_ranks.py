"""Ranks for tests of UcxFabric below the world: forked processes that meet over pipes.

Each rank serves its agent channels in a compiled thread that sleeps, as the real agent does, so that a
rank's main thread may be busy elsewhere.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import pytest

from umem.errors import FabricMissing
from umem.fabric.ucx import library
from umem.kernels import load_all
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.intrinsics.scalar import load_acquire_i64, load_i64
from umem.kernels.intrinsics.system import now_ns
from umem.kernels.page.control import (
    ALIVE,
    CONTROL_BYTES,
    CONTROL_EPOCH,
    CONTROL_NUM_RANKS,
    CONTROL_PEER_STATE,
    CONTROL_SPIN_ROUNDS,
    DEAD,
)

try:
    library.load()
except FabricMissing as error:
    pytest.skip(str(error), allow_module_level=True)

from umem.fabric.ucx.channels import progress_all
from umem.fabric.ucx.fabric import UcxFabric
from umem.fabric.ucx.port import PORT_CHANNELS, Port
from umem.fabric.ucx.turns import end_turn, take_turn
from umem.fabric.ucx.waiting import UCX_KERNELS, sleep_until_event

POSIX = {"UCX_TLS": "posix,self"}
TCP = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}
TRANSPORTS = {"posix": POSIX, "tcp": TCP}
TIMEOUT_S = 20.0  # of one operation of a test
END_S = 30.0  # of a whole test
SERVE_SLICE_NS = 5_000_000


@cpu_kernel("void(int64, int64)", group=UCX_KERNELS)
def serve(port, stop):
    """Progress the port's channels, asleep where there is no work, until the word at `stop` is set."""
    channels = load_i64(port, PORT_CHANNELS)
    take_turn(channels)
    while load_acquire_i64(stop, 0) == 0:
        if progress_all(channels) == 0:
            sleep_until_event(port, now_ns() + SERVE_SLICE_NS)
    end_turn(channels)


class Rank:
    """What a test's function gets: the fabric, memory that peers reach, and a word with the others."""

    def __init__(self, rank: int, num_ranks: int, environment: dict[str, str], link: Connection):
        self.rank, self.num_ranks, self.ucx_environment, self._link = rank, num_ranks, environment, link
        self.hosts = ["here"] * num_ranks
        self.control = np.zeros(CONTROL_BYTES // 8, np.int64)
        self.control[CONTROL_NUM_RANKS], self.control[CONTROL_SPIN_ROUNDS] = num_ranks, 200
        self.control[CONTROL_PEER_STATE : CONTROL_PEER_STATE + num_ranks] = ALIVE
        self._stop = np.zeros(1, np.int64)
        self._server: threading.Thread | None = None

    def exchange(self, key: str, blob: bytes) -> list[bytes]:
        """Everybody's blob, by rank. Collective."""
        self._link.send(("exchange", key, blob))
        if not self._link.poll(END_S):
            raise TimeoutError(key)
        return self._link.recv()

    def open(self, num_bytes: int, is_served: bool = True, timeout_s: float = TIMEOUT_S) -> UcxFabric:
        """The fabric over `num_bytes` of memory, with everybody's addresses in `addresses`. Collective."""
        self._memory = np.zeros(num_bytes + 4096, np.uint8)
        first = -self._memory.ctypes.data % 4096
        self.memory = self._memory[first : first + num_bytes]
        self.fabric = UcxFabric(
            self, self.control.ctypes.data, [(self.memory.ctypes.data, num_bytes)], timeout_s
        )
        self.addresses = [int(b) for b in self.exchange("memory", str(self.memory.ctypes.data).encode())]
        if is_served:
            self.start_serving()
        return self.fabric

    def start_serving(self) -> None:
        """From now on a thread answers what peers ask of this rank's memory."""
        self._agent_port = Port(self.fabric.agent, 0)
        arguments = (self._agent_port.address, self._stop.ctypes.data)
        self._server = threading.Thread(target=serve, args=arguments)
        self._server.start()

    def stop_serving(self) -> None:
        """Leave peers without an answer, as a home whose agent hangs."""
        if self._server is not None:
            self._stop[0] = 1
            self._server.join()
            self._stop[0] = 0
            self._server = None

    def bury(self, rank: int) -> None:
        """Confirm the death of `rank` on the control page, as this rank's agent does."""
        self.control[CONTROL_PEER_STATE + rank] = DEAD
        self.control[CONTROL_EPOCH] += 1

    def bury_when_dead(self, rank: int, pid: int) -> threading.Thread:
        """A thread that waits for the process `pid` to end and confirms the death of `rank`."""
        pidfd = os.pidfd_open(pid)

        def watch() -> None:
            with contextlib.closing(os.fdopen(pidfd)):
                if select.select([pidfd], [], [], END_S)[0]:
                    self.bury(rank)

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    def close(self) -> float:
        """Stop serving and close the fabric; seconds that closing took."""
        self.stop_serving()
        before = time.monotonic()
        self.fabric.close()
        return time.monotonic() - before


Work = Callable[[Rank], Any]


def run_ranks(work: Sequence[Work], transport: str) -> list[Any]:
    """Run one function a rank, each in its own process; their results. A rank that is killed gives None.

    Fails with the first rank's traceback, or after END_S. Every process is ended.
    """
    load_all(groups=("core", "ucx"))
    serve.load()  # a fork of a process that compiles would hang
    fork = multiprocessing.get_context("fork")
    links, processes = [], []
    for rank, function in enumerate(work):
        here, there = fork.Pipe()
        arguments = (function, rank, len(work), TRANSPORTS[transport], there)
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


def _rank_main(work: Work, rank: int, num_ranks: int, environment: dict[str, str], link: Connection) -> None:
    try:
        link.send(("result", work(Rank(rank, num_ranks, environment, link)), None))
    except BaseException:  # noqa: BLE001 - whatever a rank meets is the test's to report
        link.send(("failure", traceback.format_exc(), None))
    os._exit(0)  # pytest's own exit handlers are the parent's


def _hub(links: list[Connection]) -> list[Any]:
    results: list[Any] = [None] * len(links)
    blobs: dict[int, tuple[str, bytes]] = {}
    running = dict(zip(links, range(len(links)), strict=True))
    deadline = time.monotonic() + END_S
    while running:
        ready = wait(list(running), max(0.0, deadline - time.monotonic()))
        assert ready, f"ranks {sorted(running.values())} did not end within {END_S} s"
        for link in ready:
            rank = running[link]
            for kind, value, blob in _messages(link):
                assert kind != "failure", f"rank {rank}: {value}"
                if kind == "result":
                    results[rank] = value
                else:
                    blobs[rank] = (value, blob)
            if link.closed:
                del running[link]
        if running and len(blobs) == len(running):
            assert len({key for key, _ in blobs.values()}) == 1, blobs.keys()
            everybody = [blobs[rank][1] if rank in blobs else b"" for rank in range(len(links))]
            blobs.clear()
            for link in running:
                link.send(everybody)
    return results


def _messages(link: Connection) -> Iterator[tuple[str, Any, Any]]:
    try:
        yield link.recv()
    except (EOFError, ConnectionResetError):
        link.close()
