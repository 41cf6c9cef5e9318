"""Atomics on a word in the peer's memory: by the processor, by UCX, by the home's agent, by C."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from umem.bench.parts import speed_loops
from umem.bench.parts.random_access import cpu_count_by_compare_swap, cpu_count_by_fetch_add
from umem.fabric.ucx import abi
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness import hardware
from ..harness.stats import Samples
from . import message_loops as loops
from .base import SpacePart
from .message import UcxPart

HOME_SIDE = 1
_BATCH = 1000
WORD_BYTES = 8

_KERNELS = {
    "fetch_add": cpu_count_by_fetch_add,
    "compare_swap": cpu_count_by_compare_swap,
    "exchange": None,  # takes values, so it is called below
}
UCX_OPERATIONS = {
    "fetch_add": abi.ATOMIC_ADD,
    "compare_swap": abi.ATOMIC_CSWAP,
    "exchange": abi.ATOMIC_SWAP,
}


class Word(SpacePart):
    """One word in the peer's memory. `contended`: ranks 0 and 1 operate on it at the same time."""

    def __init__(self, space: Space, operation: str, contended: int):
        super().__init__(space)
        self.operation, self.contended = operation, bool(contended)
        self.word = self.shared(128, home=HOME_SIDE).address
        self.expected = 0  # value of the word, as rank 0 knows it

    def load_store(self, num_samples: int) -> Samples | None:
        """umem's kernel."""
        if self.operation == "exchange":
            return self._run(num_samples, self._exchange)
        kernel = _KERNELS[self.operation]
        assert kernel is not None
        return self._run(num_samples, kernel.compiled)

    def c(self, num_samples: int) -> Samples | None:
        """The same in C."""
        function = getattr(hardware.load(), self.operation)
        return self._run(num_samples, function)

    def near(self, num_samples: int) -> Samples | None:
        """Operations by the home's agent, one request at a time, asked from Python."""
        if not self.is_timed:
            return None
        asking = self.space.agent.client  # raises FabricMissing where there is no UCX
        assert asking is not None and self.space.agent.remote is not None
        ask = getattr(self.space.agent.remote, self.operation)
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            operand, _ = operands(self.operation, self.expected)
            desired = [self.expected + 1] if self.operation == "compare_swap" else []
            begin = time.perf_counter_ns()
            old = ask(HOME_SIDE, self.word, operand, *desired, WORD_BYTES)
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
            self.expect(old == self.expected)
            self.expected += 1
        return samples

    def _exchange(self, word: int, num_operations: int) -> int:
        total: int = speed_loops.exchange_many(word, self.expected + 1, num_operations)
        first = self.expected
        self.expect(total == num_operations * (2 * first + num_operations - 1) // 2)
        return total

    def _run(self, num_samples: int, act: Callable[[int, int], int]) -> Samples | None:
        def batch() -> int:
            act(self.word, _BATCH)
            return OK

        if not self.contended:
            if not self.is_timed:
                return None
            return self.alone(num_samples, _BATCH, lambda: self._counted(batch, 1))
        samples = self.timed(num_samples, _BATCH, batch if self.rank <= HOME_SIDE else lambda: OK)
        self.space.barrier()
        self.expected += 2 * _BATCH * num_samples
        self._check()
        return samples

    def _counted(self, batch: Callable[[], int], num_lanes: int) -> int:
        code = batch()
        self.expected += num_lanes * _BATCH
        return code

    def _check(self) -> None:
        if self.is_timed:
            self.expect(self.space.load(self.word, "int64") == self.expected)

    def num_errors(self) -> int:
        """Errors since the last call; the word must hold the result of all operations."""
        if not self.contended:
            self._check()
        return super().num_errors()


class RemoteWord(UcxPart):
    """A word that rank 0 alone counts up through UCX atomics."""

    def __init__(self, space: Space, operation: str):
        super().__init__(space)
        self.operation = operation
        self.word = self.shared(128, home=HOME_SIDE).address
        self.num_done = 0  # value of the word

    def rma(self, num_samples: int) -> Samples | None:
        """Operations that are complete on return, each timed; each must find the value that the one before it left."""
        if not self.is_timed:
            return None
        address = self.space.segments.remote_address(self.word)
        reach = self.fabric.peers[HOME_SIDE].words
        first = self.num_done
        operand, operand_step = operands(self.operation, first)
        replies = np.full(num_samples, -1)

        def loop(num_rounds: int, times: int) -> int:
            code = loops.atomic(
                self.port.address,
                reach.endpoint.handle,
                HOME_SIDE,
                UCX_OPERATIONS[self.operation],
                first,
                operand,
                operand_step,
                address,
                reach.key(address, WORD_BYTES),
                num_rounds,
                times,
                replies.ctypes.data,
                self.deadline_ns(),
            )
            return int(code)

        samples = self.rounds(num_samples, 0, loop)
        self.num_done += num_samples
        self.expect(bool((replies == np.arange(first, self.num_done)).all()))
        self.expect(self.space.load(self.word, "int64") == self.num_done)
        return samples


def operands(operation: str, value: int) -> tuple[int, int]:
    """Operand that makes `value` + 1 of a word of `value`, and how much larger the next operation's is."""
    return {"fetch_add": (1, 0), "exchange": (value + 1, 1), "compare_swap": (value, 1)}[operation]
