"""Enters the table of intrinsics into Numba's CPU target: types first, then the instructions.

Importing this module is the registration; it happens once, before the first kernel is declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.typing import signature
from numba.extending import lower_builtin, register_model, type_callable

from umem import config

from . import faults, lower_cpu, lower_cpu_vector, ops, ops_system, ops_vector
from .intrinsics import TABLE, Intrinsic

assert ops and ops_system and ops_vector  # imported because they fill the table

EMITTERS = {**lower_cpu.EMITTERS, **lower_cpu_vector.EMITTERS}


class VectorType(types.Type):
    """Numba's type of a vector in a register: `vec_f32`."""

    def __init__(self, element_name: str):
        self.element_name = element_name
        super().__init__(name=f"vec_{element_name}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value, so it stays in a register and may be a local of a loop."""

    def __init__(self, manager: Any, kind: VectorType):
        super().__init__(manager, kind, lower_cpu_vector.vector_type(kind.element_name))


TYPES: dict[str, types.Type] = {
    "void": types.void,
    "f32": types.float32,
    "f64": types.float64,
    **{f"i{bits}": getattr(types, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": getattr(types, f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"vec_{name}": VectorType(name) for name in ("f32", "f64", "i32", "i64")},
}


def accepts(wanted: Any, given: Any, numba_types: Any) -> bool:
    """True where `given` may be passed for `wanted`: integers convert among themselves and to floats,
    never a float to an integer."""
    integers = (numba_types.Integer, numba_types.Boolean)
    if isinstance(wanted, numba_types.Integer):
        return isinstance(given, integers)
    if isinstance(wanted, numba_types.Float):
        return isinstance(given, (*integers, numba_types.Float))
    return bool(given == wanted)


def make_typer(row: Intrinsic, operands: list[Any], result: Any, make_signature: Any, numba_types: Any) -> Any:
    """Numba typing function of one row: its only signature, where the arguments can be passed for it."""

    def typer(*given: Any) -> Any:
        if all(accepts(wanted, got, numba_types) for wanted, got in zip(operands, given, strict=True)):
            return make_signature(result, *operands)
        return None

    typer.pysig = inspect.signature(row.function)  # type: ignore[attr-defined]
    typer.__signature__ = typer.pysig  # type: ignore[attr-defined]
    return typer


def _register(row: Intrinsic, is_faults_build: bool) -> None:
    operands = [TYPES[name] for name in row.operands]
    typer = make_typer(row, operands, TYPES[row.result], signature, types)
    type_callable(row.function)(lambda context: typer)
    emit: Callable[..., Any] = EMITTERS[row.operation]

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if is_faults_build and row.is_access:
            faults.emit_tick(builder)
        result = emit(builder, row, list(args))
        return context.get_dummy_value() if row.result == "void" else result

    lower_builtin(row.function, *operands)(lower)


for _row in TABLE.values():
    _register(_row, config.build() == "faults")
