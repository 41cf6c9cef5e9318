"""Compiled forms of single intrinsics, for plain Python on real memory (see machine.DirectMemory)."""

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
    operands = [TYPES[operand] for operand in row.operands]
    bodies: dict[int, Callable[..., Any]] = {
        0: lambda: intrinsic(),
        1: lambda a: intrinsic(a),
        2: lambda a, b: intrinsic(a, b),
        3: lambda a, b, c: intrinsic(a, b, c),
        4: lambda a, b, c, d: intrinsic(a, b, c, d),
    }
    return cpu_kernel(TYPES[row.result](*operands))(bodies[len(operands)]).compiled
