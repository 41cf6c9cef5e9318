"""This machine's own bandwidth and latency: C, without umem, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from umem.units import MIB

from ..harness import hardware
from ..harness.case import Case
from ..harness.side import Options, Point, Side
from ..harness.stats import Samples
from ..harness.workers import Workers
from .registry import register

DRAM_BYTES = 64 * MIB
_LINE_ROUNDS, EVENT_ROUNDS = 2000, 200


class LocalSide(Side):
    """A function of hardware.c, run here; `seconds` times one operation."""

    def __init__(self, name: str, seconds: Callable[[], float]):
        super().__init__(name, "none", peer="c")
        self._seconds = seconds
        self.detail = name

    def open(self) -> None:
        hardware.load()

    def block(self, num_samples: int) -> Samples:
        return np.array([self._seconds() for _ in range(num_samples)])


@register
class Bandwidth(Case):
    """Copy and read bandwidth of one core."""

    key = "limits.bandwidth"
    description = "one core in C: memcpy, copy with nontemporal stores, and read, through 256 MiB in turn"
    about = "rate"
    min_ranks = 1
    most_samples = 4
    home = "local"
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(DRAM_BYTES)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        memory = Buffers(4, point.num_bytes)
        return [
            LocalSide("memcpy", lambda: memory.seconds(hardware.load().copy_libc)),
            LocalSide("nontemporal", lambda: memory.seconds(hardware.load().copy_stream)),
            LocalSide(
                "read", lambda: memory.seconds(lambda _, src, size: hardware.load().sum_words(src, size // 8))
            ),
        ]


@register
class Latency(Case):
    """Round trips between two cores."""

    key = "limits.latency"
    description = "round trips between two threads in C: of a line (as in latency.line), and of an eventfd"
    min_ranks = 1
    min_cores = 2
    most_samples = 10
    home = "local"
    budget_s = 1.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [
            LocalSide("line", lambda: hardware.line_round_trip_ns(_LINE_ROUNDS) * 1e-9),
            LocalSide("eventfd", lambda: hardware.event_round_trip_ns(EVENT_ROUNDS) * 1e-9),
        ]

    def bytes_moved(self, point: Point) -> int:
        return 0


class Buffers:
    """Pairs of buffers, touched, 64-byte aligned, used in turn; made when first used."""

    def __init__(self, num_buffers: int, num_bytes: int):
        self.num_buffers, self.num_bytes = num_buffers, num_bytes
        self._memory: tuple[np.ndarray, np.ndarray] | None = None
        self._next = 0

    def seconds(self, run: Callable[[int, int, int], int]) -> float:
        """Time of run(dst, src, num_bytes) on the next pair."""
        if self._memory is None:
            total = self.num_buffers * self.num_bytes + 64
            self._memory = np.ones(total, np.uint8), np.ones(total, np.uint8)
        offset = self._next * self.num_bytes
        self._next = (self._next + 1) % self.num_buffers
        dst, src = (array.ctypes.data + -array.ctypes.data % 64 + offset for array in self._memory)
        begin = time.perf_counter()
        run(dst, src, self.num_bytes)
        return time.perf_counter() - begin
