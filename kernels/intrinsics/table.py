"""The table of intrinsics: what each one is called, takes, gives and orders.

An intrinsic is one Python function. Run as plain Python its body asks `machine.current`; compiled, its
row in TABLE is lowered by `lower_cpu` or `lower_cuda`, which know the operations by name. The rows are
filled by the modules that define the functions (scalar, vector, system).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .elements import Element

Ordering = Literal["plain", "stream", "relaxed", "acquire", "release", "acq_rel", "seq_cst"]
"""How an access is ordered, named as in C++. `plain` must not race. `stream` is a plain store that may be
overtaken by later stores, also by releases, until stream_fence."""

Scope = Literal["cta", "gpu", "sys"]
"""Among whom an ordered access orders, named as in PTX: a block's threads, a GPU, all processors of the machine. The
CPU and the model know no narrower one than `sys`."""

Function = TypeVar("Function", bound=Callable[..., Any])

CPU_AND_CUDA = ("cpu", "cuda")
CPU_ONLY = ("cpu",)


@dataclass(frozen=True)
class Intrinsic:
    """One row: `operands` and `result` name types: an element (i64), a vector (vec_f32) or void."""

    name: str
    operation: str
    operands: tuple[str, ...]
    result: str
    function: Callable[..., Any]
    element: Element | None = None
    ordering: Ordering | None = None
    scope: Scope = "sys"
    targets: tuple[str, ...] = CPU_AND_CUDA

    @property
    def is_access(self) -> bool:
        """True where it reads or writes memory that others may see: the faults build counts it."""
        return self.ordering is not None and not self.operation.startswith("fence")


TABLE: dict[str, Intrinsic] = {}


def define(
    function: Function,
    name: str,
    operation: str,
    operands: str,
    result: str,
    *,
    element: Element | None = None,
    ordering: Ordering | None = None,
    scope: Scope = "sys",
    targets: tuple[str, ...] = CPU_AND_CUDA,
    doc: str | None = None,
) -> Function:
    """Name `function`, enter it into TABLE and return it; `operands` is a list of type names with blanks."""
    assert name not in TABLE, name
    function.__name__ = function.__qualname__ = name
    if doc:
        function.__doc__ = doc
    TABLE[name] = Intrinsic(
        name, operation, tuple(operands.split()), result, function, element, ordering, scope, targets
    )
    return function


def names(module: str) -> list[str]:
    """The intrinsics that `module` defines and exports."""
    return [row.name for row in TABLE.values() if row.function.__module__ == module]
