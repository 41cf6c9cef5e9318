"""Plain Python kernels on this process's memory: ctypes, and the compiled forms of single intrinsics."""

# ruff: noqa: PLW0108 - Numba compiles the caller of an intrinsic; the intrinsic itself has no compilable body.

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Callable
from typing import Any

from ..intrinsics import machine
from ..intrinsics.elements import Element, Number
from ..intrinsics.register_cpu import TYPES
from ..intrinsics.table import TABLE, Ordering
from .compile import cpu_kernel


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    """The intrinsic `name` as a compiled function of the same operands."""
    row = TABLE[name]
    intrinsic = row.function
    callers: tuple[Callable[..., Any], ...] = (
        lambda: intrinsic(),
        lambda a: intrinsic(a),
        lambda a, b: intrinsic(a, b),
        lambda a, b, c: intrinsic(a, b, c),
        lambda a, b, c, d: intrinsic(a, b, c, d),
    )
    signature = TYPES[row.result](*[TYPES[operand] for operand in row.operands])
    kernel = cpu_kernel(signature, group="intrinsics")(callers[len(row.operands)])
    return kernel.compiled


class DirectMemory(machine.Machine):
    """This process's memory: a wrong address is a segmentation fault, as in compiled code.

    Plain accesses go through ctypes. Ordered accesses, atomic steps and fences run the compiled form of
    the same intrinsic, so that they are atomic against other threads and processes.
    """

    def load(self, address: int, element: Element, ordering: Ordering) -> Number:
        if ordering == "plain":
            return element.ctype.from_address(address).value
        return compiled(f"load_{ordering}_{element.name}")(address, 0)

    def store(self, address: int, element: Element, value: Number, ordering: Ordering) -> None:
        if ordering in ("plain", "stream"):
            element.ctype.from_address(address).value = value
        else:
            compiled(f"store_{ordering}_{element.name}")(address, 0, value)

    def rmw(
        self, operation: str, address: int, element: Element, operands: tuple[Number, ...], ordering: Ordering
    ) -> Number:
        variant = "" if ordering == "acq_rel" else f"_{ordering}"
        return compiled(f"{operation}{variant}_{element.name}")(address, 0, *operands)

    def fence(self, ordering: Ordering) -> None:
        compiled("stream_fence" if ordering == "stream" else f"fence_{ordering}")()

    def copy(self, dst: int, src: int, num_bytes: int) -> None:
        ctypes.memmove(dst, src, num_bytes)

    def pause(self) -> None:
        os.sched_yield()  # the interpreter's own turn is longer than any pause

    def yield_cpu(self) -> None:
        os.sched_yield()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def cycles(self) -> int:
        return int(compiled("cycles")())

    def thread_pointer(self) -> int:
        return int(compiled("thread_pointer")())

    def thread_stripe(self) -> int:
        return int(compiled("thread_stripe")())

    def futex_wait(self, address: int, expected: int, timeout_ns: int) -> int:
        return int(compiled("futex_wait")(address, expected, timeout_ns))

    def futex_wake(self, address: int, count: int) -> int:
        return int(compiled("futex_wake")(address, count))

    def call_handler(self, function_address: int, request: int, reply: int, context: int) -> int:
        word = ctypes.c_int64
        return int(ctypes.CFUNCTYPE(word, word, word, word)(function_address)(request, reply, context))


machine.current = DirectMemory()
