"""The machine that plain Python kernels run on: what an intrinsic's body asks when it is not compiled.

`current` is real memory (kernels/build/direct_memory.py) unless replaced by `with use(machine):`. A model checker
puts a recorder there and sees every access with its kind, address, element, ordering and values; plain accesses
come with ordering "plain", so that it can report races on them. `current` is one for the whole process,
since a checker's search is one thread; do not replace it while other threads run plain kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .elements import Element, Number
from .table import Ordering


class Machine:
    """Memory and clock of a plain Python kernel; override `load`, `store`, `rmw`, `fence` at least.

    The other operations have neutral defaults: a machine without real memory has no time to tell, nothing
    to prefetch, and one lane.
    """

    def load(self, address: int, element: Element, ordering: Ordering) -> Number:
        """Value of `element` at byte `address`."""
        raise NotImplementedError

    def store(self, address: int, element: Element, value: Number, ordering: Ordering) -> None:
        """Write `value`, already wrapped to `element`."""
        raise NotImplementedError

    def rmw(
        self, operation: str, address: int, element: Element, operands: tuple[Number, ...], ordering: Ordering
    ) -> Number:
        """Old value of one atomic step; `operation` and `operands` as in `new_value`."""
        raise NotImplementedError

    def fence(self, ordering: Ordering) -> None:
        """Order accesses before it against accesses after it."""
        raise NotImplementedError

    def copy(self, dst: int, src: int, num_bytes: int) -> None:
        """Plain copy of bytes that do not overlap."""
        raise NotImplementedError

    def pause(self) -> None:
        """A spinning lane lets others go on."""

    def yield_cpu(self) -> None:
        """A waiting lane gives its core away."""

    def prefetch(self, address: int) -> None:
        """A hint: the line at `address` will be read."""

    def now_ns(self) -> int:
        """Time that never goes back, in nanoseconds."""
        return 0

    def cycles(self) -> int:
        """A fine clock without a fixed unit."""
        return 0

    def is_gpu(self) -> int:
        """1 where the lanes are a GPU's."""
        return 0

    def lane_index(self) -> int:
        """This lane among `num_lanes`."""
        return 0

    def num_lanes(self) -> int:
        """Lanes that run the kernel together."""
        return 1

    def thread_pointer(self) -> int:
        """Identity of the running thread."""
        return 1 + self.lane_index()

    def thread_stripe(self) -> int:
        """A number by which most threads differ in the low bits."""
        return self.lane_index()

    def futex_wait(self, address: int, expected: int, timeout_ns: int) -> int:
        """Sleep while the u32 at `address` is `expected`; 0 or a negative errno."""
        return 0

    def futex_wake(self, address: int, count: int) -> int:
        """Wake up to `count` sleepers; how many were woken."""
        return 0

    def call_handler(self, function_address: int, request: int, reply: int, context: int) -> int:
        """Result of the C function int64(int64, int64, int64) at `function_address`."""
        raise NotImplementedError

    def call_with(self, function_address: int, arguments: int) -> int:
        """Result of the C function at `function_address`, called with the words at `arguments`."""
        raise NotImplementedError


def new_value(operation: str, element: Element, old: Number, operands: tuple[Number, ...]) -> Number:
    """What an atomic step leaves in memory.

    fetch_add, fetch_or, fetch_and, exchange (value,), compare_swap (expected, desired): the last leaves
    `old` where it differs from `expected`.
    """
    match operation:
        case "fetch_add":
            return element.wrap(old + operands[0])
        case "fetch_or":
            return old | operands[0]
        case "fetch_and":
            return old & operands[0]
        case "exchange":
            return operands[0]
    assert operation == "compare_swap", operation
    return operands[1] if old == operands[0] else old


current: Machine = Machine()  # until kernels/build/direct_memory.py puts this process's memory here


@contextmanager
def use(machine: Machine) -> Iterator[Machine]:
    """Let plain kernels run on `machine` inside the block."""
    global current
    before = current
    current = machine
    try:
        yield machine
    finally:
        current = before
