"""One rank's part of a round: programs of words for its lane, and the loop that runs them (run_lane.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...kernels import status
from ...kernels.page import operations
from ...space.space import Space
from . import run_lane as words
from .litmus import Litmus, Step

INSTANCES = 256  # a round
ALL_INSTANCES = range(INSTANCES)
LINE_BYTES = 128

# On real memory every access is ordered, so that both forms of a load, and of a store, are one.
_OPERATIONS = {
    "load": operations.READ,
    "load_acquire": operations.READ,
    "store": operations.WRITE,
    "store_release": operations.WRITE,
    "fetch_add": operations.FETCH_ADD,
    "exchange": operations.EXCHANGE,
    "compare_swap": operations.COMPARE_SWAP,
    "fence": words.FENCE_STEP,
}
AT_ONCE = np.zeros(INSTANCES, np.int64)  # moments of a round whose lanes do not wait


@dataclass(frozen=True)
class Code:
    """A lane as words; `num_registers` of each instance are kept."""

    rows: np.ndarray
    num_registers: int


def encode(litmus: Litmus, steps: Sequence[Step]) -> Code:
    """`steps` over the places of `litmus`; registers are numbered in the order of the steps."""
    numbers = {place.name: number for number, place in enumerate(litmus.places)}
    rows = np.zeros((len(steps), words.STEP_WORDS), np.int64)
    num_registers = 0
    for row, step in zip(rows, steps, strict=True):
        first, second = (*step.operands, 0, 0)[:2]
        register = num_registers if step.register else words.NO_REGISTER
        row[:] = _OPERATIONS[step.operation], numbers.get(step.place, 0), first, second, register
        num_registers += bool(step.register)
    return Code(rows, num_registers)


class Lane:
    """Runs programs over the instances of a round. `is_raw`: by the processor's own loads and stores."""

    def __init__(self, space: Space, is_raw: bool):
        self._space = space
        self._cache = words.RAW if is_raw else space.cache.address
        self._run = words.run_lane.compiled
        self._position = np.zeros(words.POSITION_WORDS, np.int64)

    def run(
        self,
        code: Code,
        places: np.ndarray,
        part: range = ALL_INSTANCES,
        begin_ns: int = 0,
        moments: np.ndarray = AT_ONCE,
    ) -> np.ndarray:
        """Registers (instances, num_registers) of the instances in `part`; number i runs from begin_ns + moments[i] on.

        `places`: address of each place's first instance; the others follow at LINE_BYTES each. Raises what an
        access may raise.
        """
        results = np.zeros((INSTANCES, code.num_registers), np.int64)
        self._position[:] = (part.start, 0)
        program = (self._position.ctypes.data, code.rows.ctypes.data, len(code.rows))
        where = (places.ctypes.data, LINE_BYTES, begin_ns, moments.ctypes.data)
        kept = (results.ctypes.data, code.num_registers, part.stop)

        def step() -> int:
            slice_end_ns = time.monotonic_ns() + status.SLICE_NS
            return int(self._run(self._cache, *program, *where, *kept, slice_end_ns))

        self._space.cache.until_ok(step)
        return results[part.start : part.stop]
