"""ucxx, or its forerunner ucp, as a peer, where one is installed: called through asyncio, as its users do."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from umem.errors import Waived

from ..harness.side import PartSide
from ..harness.wire import Part, serve
from . import check_world

if TYPE_CHECKING:
    from ..harness.case import Point, Side
    from ..harness.stats import Samples
    from ..harness.workers import Workers

OPERATIONS = ("message",)
_MODULES = ("ucxx", "ucp")
_FIX = "pip install ucxx-cu12"
NUM_WORKERS = 2


def side(workers: Workers, operation: str, point: Point) -> Side:
    """ucxx at `point`."""

    def command(path: str) -> list[str]:
        check_world(workers, "ucxx")
        if module_name() is None:
            raise Waived(f"neither ucxx nor ucp here. Fix: {_FIX}")
        return [sys.executable, "-m", "umem.bench.peers.ucxx", path]

    group = workers.group(("ucxx",), "two processes with ucxx", command, NUM_WORKERS)
    part = Part(group, "umem.bench.peers.ucxx:Message", num_bytes=point.num_bytes)
    binding = module_name() or "ucxx"
    return PartSide("ucxx", "message", part, "block", peer=binding, transport="UCX's choice")


def module_name() -> str | None:
    """The first of the two bindings that is installed."""
    return next((name for name in _MODULES if find_spec(name) is not None), None)


class Message:
    """Messages to and fro; a sample is half a round trip. `context` is this process's connection."""

    def __init__(self, context: Connection, num_bytes: int):
        self.connection = context
        self.src = np.full(num_bytes, context.rank + 1, np.uint8)
        self.dst = np.zeros(num_bytes, np.uint8)
        self.errors = 0

    def block(self, num_samples: int) -> Samples | None:
        """Round trips, each timed."""
        samples: Samples = self.connection.run(self._ping_pong(num_samples))
        self.errors += bool((self.dst != 2 - self.connection.rank).any())
        return samples / 2 if self.connection.rank == 0 else None

    async def _ping_pong(self, num_samples: int) -> Samples:
        endpoint, samples = self.connection.endpoint, np.empty(num_samples)
        for sample in range(num_samples):
            begin = time.perf_counter()
            if self.connection.rank == 0:
                await endpoint.send(self.src)
                await endpoint.recv(self.dst)
            else:
                await endpoint.recv(self.dst)
                await endpoint.send(self.src)
            samples[sample] = time.perf_counter() - begin
        return samples

    def num_errors(self) -> int:
        """Wrong data since the last call."""
        found, self.errors = self.errors, 0
        return found

    def close(self) -> None:
        """The connection stays for the next part."""


class Connection:
    """An endpoint between the two processes, and the event loop that it belongs to."""

    def __init__(self, ucx: Any, rank: int, loop: asyncio.AbstractEventLoop, endpoint: Any):
        self.ucx, self.rank, self.loop, self.endpoint = ucx, rank, loop, endpoint

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine `work` in the event loop; returns its result."""
        return self.loop.run_until_complete(work)


async def _listen(ucx: Any, tell: Any) -> Any:
    connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    listener = ucx.create_listener(connected.set_result)
    tell.send(listener.port)
    return await connected


def _work(rank: int, path: str, link: Any) -> None:
    from importlib import import_module

    name = module_name()
    assert name is not None
    ucx = import_module(name)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    if rank == 0:
        endpoint = loop.run_until_complete(_listen(ucx, link))
    else:
        endpoint = loop.run_until_complete(ucx.create_endpoint("127.0.0.1", link.recv()))
    serve(path, rank, Connection(ucx, rank, loop, endpoint))


def main() -> None:
    """Start the two processes: `python -m umem.bench.peers.ucxx SOCKET`."""
    from multiprocessing import get_context

    context = get_context("spawn")
    links = context.Pipe()
    workers = [context.Process(target=_work, args=(rank, sys.argv[1], links[rank])) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
