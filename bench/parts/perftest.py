"""ucx_perftest, started by the ranks themselves: the same cores, the same network, the same libucp.

The server runs beside rank 1 and the client beside rank 0, once a block. Both inherit the rank's pinning,
its network namespace and its UCX variables, so transport and library are those of umem's own messages.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time

import numpy as np

from umem import config
from umem.errors import FabricError, Waived
from umem.fabric.ucx import tools
from umem.space.space import Space

from ..harness.stats import Samples

TESTS = {
    "message": "tag_lat",
    "stream": "tag_bw",
    "am": "ucp_am_lat",
    "get": "ucp_get",
    "put_ping_pong": "ucp_put_lat",
    "fetch_add": "ucp_fadd",
}
SERVER, CLIENT = 1, 0  # ranks
_RUN_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 10.0
POLL_S = 0.002
WARMUP = 500  # iterations
# UCX maps memory that it allocated itself and stores to the peer's directly; umem's memory it did not allocate.
_MEMORY = {"UCX_ALLOC_PRIO": "heap"}
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


class Perftest:
    """One test of ucx_perftest at one size."""

    def __init__(self, space: Space, operation: str, num_bytes: int, num_operations: int, window: int):
        if space.num_ranks < 2:
            raise Waived("ucx_perftest needs two ranks")
        self.space, self.rank = space, space.rank
        self.operation = operation
        command, environment = tools.perftest_command()
        transports = {"UCX_TLS": space.fabric.transports} if space.fabric else {}
        world = {**space.world.ucx_environment, **transports}
        self._environment = {**config.snapshot(), **world, **environment, **_MEMORY}
        warmup = min(WARMUP, num_operations)
        self._options = ["-t", TESTS[operation], "-s", str(num_bytes), "-n", str(num_operations)]
        self._options += ["-w", str(warmup), "-O", str(window), "-f"]
        self._command = command
        self._server: subprocess.Popen[bytes] | None = None

    def listen(self) -> int | None:
        """Start the server; returns its port at the server's rank, once it listens there."""
        if self.rank != SERVER:
            return None
        port = free_port(self.space.world.ip_address)
        self._server = subprocess.Popen(
            [*self._command, "-p", str(port)],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_listening(port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.finish()
                raise FabricError(f"ucx_perftest did not listen on port {port}")
            time.sleep(POLL_S)  # another program's start: there is nothing to wait on
        return port

    def measure(self, port: int) -> Samples | None:
        """Run the client against `port`: seconds per operation, one sample."""
        if self.rank != CLIENT:
            return None
        address = self.space.world.ip_addresses[SERVER]
        command = [*self._command, address, "-p", str(port), *self._options]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=_RUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FabricError(f"ucx_perftest did not end within {_RUN_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            raise FabricError(f"ucx_perftest failed: {(done.stderr or done.stdout).strip()[-400:]}")
        return np.array([seconds_per_operation(done.stdout, self.operation)])

    def finish(self) -> None:
        """End the server: it leaves by itself after one client."""
        if self._server is not None:
            try:
                self._server.wait(_START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def num_errors(self) -> int:
        """ucx_perftest does not check data."""
        return 0

    def close(self) -> None:
        """End a server that is left."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def seconds_per_operation(printed: str, operation: str) -> float:
    """From the final line: the median of a latency test, the overall rate of a bandwidth test.

    A latency test prints half a round trip; one of active messages counts as the whole.

    Columns: iterations, 50th percentile, average, overall (us), bandwidth twice, message rate twice.
    """
    lines = re.findall(r"^\s*(\d+(?:\s+[\d.]+){7})\s*$", printed, re.MULTILINE)
    if not lines:
        raise FabricError(f"ucx_perftest printed no result: {printed.strip()[-400:]}")
    columns = [float(text) for text in lines[-1].split()]
    if operation == "stream":
        return 1 / columns[7]
    return columns[1] * 1e-6 * (2 if operation == "am" else 1)


def free_port(address: str) -> int:
    """A TCP port of `address` that is free now."""
    with socket.socket() as trial:
        trial.bind((address, 0))
        return int(trial.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether a socket of this network namespace listens on `port`; does not connect to it."""
    for name in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with open(name) as table:
            for line in list(table)[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False
