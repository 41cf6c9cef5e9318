"""ucx_perftest as a peer: UCX's own figure for the same operation on the same transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umem.units import KIB, MIB

from ..harness.side import STREAM_WINDOW, Side
from ..harness.wire import Part

if TYPE_CHECKING:
    from ..harness.case import Point
    from ..harness.stats import Samples
    from ..harness.workers import Workers

_SEMANTICS = {
    "message": "message",
    "stream": "message",
    "am": "message",
    "get": "rma",
    "put_ping_pong": "rma",
    "fetch_add": "rma",
}
OPERATIONS = tuple(_SEMANTICS)


class PerftestSide(Side):
    """A block is one run of ucx_perftest, server and client, with its own warm-up."""

    warms_up = False
    min_cores = 2

    def __init__(self, part: Part, semantics: str, transport: str):
        super().__init__("ucx_perftest", semantics, "ucx_perftest", transport)
        self._part = part

    def open(self) -> None:
        self._part.open()

    def block(self, num_samples: int) -> Samples:
        """One sample, whatever `num_samples` is: the run's own median or rate."""
        port = self._part.call("listen", only=1)[0]
        try:
            samples: Samples = self._part.call("measure", port, only=0)[0]
        finally:
            self._part.call("finish", only=1)
        return samples

    def close(self) -> None:
        self._part.close()


def side(workers: Workers, operation: str, point: Point) -> Side:
    """ucx_perftest at `point`, in the world of this run."""
    part = Part(
        workers.ranks(),
        "umem.bench.parts.perftest:Perftest",
        operation=operation,
        num_bytes=point.num_bytes,
        num_operations=num_operations(point.num_bytes, workers.options.world),
        window=int(point.setting("window", STREAM_WINDOW)) if operation == "stream" else 1,
    )
    transport = workers.options.transport
    return PerftestSide(part, _SEMANTICS[operation], transport)


def num_operations(num_bytes: int, world: str) -> int:
    """Operations of a run: tens of milliseconds on this transport."""
    slow = world == "hosts"
    if num_bytes <= 8 * KIB:
        return 4_000 if slow else 40_000
    if num_bytes <= MIB:
        return 100 if slow else 400
    return 20
