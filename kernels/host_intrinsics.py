"""Compiled forms of single intrinsics, for plain Python on real memory (see machine.DirectMemory)."""

# ruff: noqa: PLW0108 - Numba compiles the caller of an intrinsic; the intrinsic itself has no compilable body.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .compile import cpu_kernel
from .intrinsics import TABLE
from .register_cpu import TYPES


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
