"""Atomics on a word of the peer's: by the processor, by UCX, by the home's agent, by C."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from umem.errors import FabricMissing
from umem.fabric.ucx import abi
from umem.fabric.ucx.library import FIX
from umem.kernels import probe
from umem.kernels.random_access import cpu_count_by_compare_swap, cpu_count_by_fetch_add
from umem.kernels.status import OK
from umem.space import Space

from .. import limits
from ..stats import Samples
from . import message_loops as loops
from .base import SpacePart
from .message import UcxPart

HOME = 1
BATCH = 1000

KERNELS = {
    "fetch_add": cpu_count_by_fetch_add,
    "compare_swap": cpu_count_by_compare_swap,
    "exchange": None,  # takes values, so it is called below
}
OPERATIONS = {"fetch_add": abi.ATOMIC_ADD, "exchange": abi.ATOMIC_SWAP}


class Word(SpacePart):
    """One word at the peer's. `contended`: ranks 0 and 1 act on it at the same time."""

    def __init__(self, space: Space, operation: str, contended: int):
        super().__init__(space)
        self.operation, self.contended = operation, bool(contended)
        self.word = self.shared(128, home=HOME).address
        self.expected = 0  # value of the word, as rank 0 knows it

    def load_store(self, num_samples: int) -> Samples | None:
        """umem's kernel."""
        if self.operation == "exchange":
            return self._run(num_samples, self._exchange)
        kernel = KERNELS[self.operation]
        assert kernel is not None
        return self._run(num_samples, kernel.compiled)

    def c(self, num_samples: int) -> Samples | None:
        """The same in C."""
        function = getattr(limits.load(), self.operation)
        return self._run(num_samples, function)

    def near(self, num_samples: int) -> Samples | None:
        """Shipped to the home's agent, one request at a time; asked from Python."""
        if not self.is_timed:
            return None
        client = self.space.agent.client
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            begin = time.perf_counter_ns()
            old = client.fetch_add(HOME, self.word, 1, 8)
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
            self.expect(old == self.expected)
            self.expected += 1
        return samples

    def _exchange(self, word: int, num_operations: int) -> int:
        total: int = probe.exchange_many(word, self.expected + 1, num_operations)
        first = self.expected
        self.expect(total == num_operations * (2 * first + num_operations - 1) // 2)
        return total

    def _run(self, num_samples: int, act: Callable[[int, int], int]) -> Samples | None:
        def batch() -> int:
            act(self.word, BATCH)
            return OK

        if not self.contended:
            if not self.is_timed:
                return None
            return self.alone(num_samples, BATCH, lambda: self._counted(batch, 1))
        samples = self.timed(num_samples, BATCH, batch if self.rank <= HOME else lambda: OK)
        self.space.barrier()
        self.expected += 2 * BATCH * num_samples
        self._check()
        return samples

    def _counted(self, batch: Callable[[], int], num_lanes: int) -> int:
        code = batch()
        self.expected += num_lanes * BATCH
        return code

    def _check(self) -> None:
        if self.is_timed:
            self.expect(self.space.load(self.word, "int64") == self.expected)

    def num_errors(self) -> int:
        """The word must be what all operations together made of it."""
        if not self.contended:
            self._check()
        return super().num_errors()


class RemoteWord(UcxPart):
    """The same word through UCX atomics, by rank 0 alone."""

    def __init__(self, space: Space, operation: str):
        super().__init__(space)
        if operation not in OPERATIONS:
            raise FabricMissing(f"{operation} over UCX is not driven from a compiled loop. Fix: {FIX}")
        self.operation = operation
        self.word = self.shared(128, home=HOME).address
        self.num_done = 0

    def rma(self, num_samples: int) -> Samples | None:
        """Each timed, complete on return."""
        if not self.is_timed:
            return None
        address = self.space.segments.remote_address(self.word)
        reach = self.fabric.peers[HOME].words

        def loop(num_rounds: int, times: int) -> int:
            code = loops.atomic(
                self.port.address,
                reach.endpoint.handle,
                HOME,
                OPERATIONS[self.operation],
                1,
                address,
                reach.key(address, 8),
                num_rounds,
                times,
                self.deadline_ns(),
            )
            return int(code)

        samples = self.rounds(num_samples, 0, loop)
        self.num_done += num_samples
        total = self.num_done if self.operation == "fetch_add" else 1
        self.expect(self.space.load(self.word, "int64") == total)
        return samples
