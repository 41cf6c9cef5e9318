"""Accesses of rank 0 to a home whose user code holds the GIL, so that its agent must answer.

Beside them round trips with threads in C of the same two processes, which block until they are asked: over eventfds,
whose descriptors travel over a socket in the driver's folder (that works between network namespaces too), and
between hosts over a TCP connection, which bounds every transport over tcp from below.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
import time
from collections.abc import Callable

import numpy as np

from umem.errors import WaitTimeout
from umem.kernels.build.compile import c_callback
from umem.kernels.intrinsics.system import now_ns
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from .base import SpacePart

CLIENT, _HOME = 0, 1
GAP_S = 500e-6  # between operations: longer than any spin, so that both sides sleep
ENDLESS = 1 << 60  # rounds
MEET_TIMEOUT_S = 20.0
ALLOC_BYTES = 4096
MAX_SAMPLES = 1024  # of a block of get and put: each has a word of its own
HOLDS = b"h"


@c_callback("int64(int64)")
def burn(duration_ns):
    """Use the processor for `duration_ns`."""
    end = now_ns() + duration_ns
    while now_ns() < end:
        pass
    return 0


class Home(SpacePart):
    """Rank 1 holds its GIL while rank 0 accesses its memory. `folder` has the socket by which the two meet."""

    def __init__(self, space: Space, folder: str):
        super().__init__(space)
        hardware.load()
        self.word = self.shared(64, home=_HOME).address
        self.num_added = 0
        self.words = self.shared(8 * MAX_SAMPLES, home=_HOME).address
        self.random = np.random.default_rng(space.rank)
        self.threads: list[threading.Thread] = []
        self.connection: socket.socket | None = None
        self.socket: socket.socket | None = None
        self.fds: list[int] = []
        if self.rank <= _HOME:
            self._meet(os.path.join(folder, "eventfds"))
            if space.world.hosts[CLIENT] != space.world.hosts[_HOME]:
                self._connect(os.path.join(folder, "tcp"))
        space.barrier()

    def _meet(self, path: str) -> None:
        if self.rank == _HOME:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.settimeout(MEET_TIMEOUT_S)
                listener.bind(path)
                listener.listen()
                self.space.world.set(path, b"")
                self.socket = listener.accept()[0]
            self.fds = [os.eventfd(0), os.eventfd(0)]
            socket.send_fds(self.socket, [HOLDS], self.fds)
            self._echo(*self.fds)
        else:
            self.space.world.get(path, MEET_TIMEOUT_S)
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(MEET_TIMEOUT_S)
            self.socket.connect(path)
            self.fds = socket.recv_fds(self.socket, 1, 2)[1]

    def _connect(self, key: str) -> None:
        world = self.space.world
        if self.rank == _HOME:
            with socket.create_server((world.ip_address, 0)) as listener:
                listener.settimeout(MEET_TIMEOUT_S)
                world.set(key, json.dumps(listener.getsockname()).encode())
                self.connection = listener.accept()[0]
            self._echo(self.connection.fileno(), self.connection.fileno())
        else:
            address = json.loads(world.get(key, MEET_TIMEOUT_S))
            self.connection = socket.create_connection(tuple(address), MEET_TIMEOUT_S)
        self.connection.settimeout(None)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _echo(self, ask: int, answer: int) -> None:
        """Start a thread that answers every event of the descriptor `ask` by `answer`."""
        echo = hardware.load().event_ping_pong
        self.threads.append(threading.Thread(target=echo, args=(ask, answer, 1, ENDLESS), daemon=True))
        self.threads[-1].start()

    # --- the home

    def hold(self, duration_s: float) -> None:
        """Make one call that keeps the GIL for `duration_s`, after a byte that tells the client that it begins."""
        if self.rank != _HOME:
            return
        assert self.socket is not None
        call = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(burn.address)
        self.socket.send(HOLDS)
        call(int(duration_s * 1e9))

    # --- the client

    def await_hold(self) -> None:
        """Return once the home is about to hold its GIL."""
        assert self.socket is not None
        if self.socket.recv(1) != HOLDS:
            raise WaitTimeout("the home ended before it held its GIL")

    def get(self, num_samples: int) -> Samples:
        """Get 8 B from the home: a word a sample, all of them new in every block."""
        values = self._new_words(num_samples)
        self.space.put(self.words, values)
        found = np.zeros_like(values)
        places = np.split(found, num_samples)
        samples = self._each(num_samples, lambda i: self.space.get(places[i], self.words + 8 * i))
        self.expect(np.array_equal(found, values))
        return samples

    def put(self, num_samples: int) -> Samples:
        """Put 8 B to the home: a word a sample, read back after the block."""
        values = self._new_words(num_samples)
        words = np.split(values, num_samples)
        samples = self._each(num_samples, lambda i: self.space.put(self.words + 8 * i, words[i]))
        found = np.zeros_like(values)
        self.space.get(found, self.words)
        self.expect(np.array_equal(found, values))
        return samples

    def fetch_add(self, num_samples: int) -> Samples:
        """Add to a word of the home's."""
        samples = self._each(num_samples, lambda _: self.space.fetch_add(self.word, 1, "int64"))
        self.num_added += num_samples
        self.expect(self.space.load(self.word, "int64") == self.num_added)
        return samples

    def alloc(self, num_samples: int) -> Samples:
        """Allocate 4 KiB of the home's memory, freed outside the timing."""
        found: list[int] = []
        samples = self._each(num_samples, lambda _: found.append(self.space.alloc(ALLOC_BYTES, home=_HOME)))
        self.expect(len(set(found)) == num_samples)
        for address in found:
            self.space.free(address)
        return samples

    def eventfd(self, num_samples: int) -> Samples:
        """An eventfd round trip with the home's process."""
        ask, answer = self.fds
        ping = hardware.load().event_ping_pong
        return self._each(num_samples, lambda _: ping(answer, ask, 0, 1))

    def tcp(self, num_samples: int) -> Samples:
        """A round trip over a TCP connection with the home's host."""
        assert self.connection is not None
        fd, ping = self.connection.fileno(), hardware.load().event_ping_pong
        return self._each(num_samples, lambda _: ping(fd, fd, 0, 1))

    def _new_words(self, num_samples: int) -> np.ndarray:
        """Random words, which the home does not hold yet."""
        assert num_samples <= MAX_SAMPLES
        return self.random.integers(1, 1 << 62, num_samples)

    def _each(self, num_samples: int, operation: Callable[[int], object]) -> Samples:
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            time.sleep(GAP_S)
            begin = time.perf_counter_ns()
            operation(sample)
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
        return samples

    def close(self) -> None:
        self.space.barrier()
        if self.connection is not None and self.rank == CLIENT:
            self.connection.close()  # the echo reads its end, and ends
        if self.threads:
            ask = self.fds[0]
            os.set_blocking(ask, False)  # woken once more, the echo finds nothing to read and ends
            os.eventfd_write(ask, 1)
            for thread in self.threads:
                thread.join(MEET_TIMEOUT_S)
            if self.connection is not None:
                self.connection.close()
        for fd in self.fds:
            os.close(fd)
        if self.socket is not None:
            self.socket.close()
        super().close()
