"""Enters the table of intrinsics into Numba's CPU target: types first, then the instructions.

Importing this module is the registration; it happens once, before the first kernel is declared.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.typing import signature
from numba.extending import lower_builtin, register_model, type_callable

from umem import config

from . import faults, lower_cpu, scalar, system, vector, whole
from .lower_vector import CpuVectors
from .table import TABLE, Intrinsic
from .typing_rules import make_typer, type_names

assert scalar and system and vector and whole  # imported because they fill the table, and add a type

CPU_VECTORS = CpuVectors()
_EMITTERS = {**lower_cpu.CPU_EMITTERS, **CPU_VECTORS.emitters()}


class VectorType(types.Type):
    """Numba's type of a vector in a register: `vec_f32`."""

    def __init__(self, element_name: str):
        self.element_name = element_name
        super().__init__(name=f"vec_{element_name}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value, so it stays in a register and may be a local of a loop."""

    def __init__(self, manager: Any, kind: VectorType):
        super().__init__(manager, kind, CPU_VECTORS.vector_type(kind.element_name))


TYPES: dict[str, types.Type] = type_names(types, VectorType)


def _is_cuda(context: Any) -> bool:
    """numba-cuda takes over what others register for the CPU; there each row has a form of its own."""
    return type(context).__module__.startswith("numba.cuda")


def _refuse(*given: Any) -> None:
    """Typing function that fits no arguments."""


def _register(row: Intrinsic, is_faults_build: bool) -> None:
    typer = make_typer(row, TYPES, signature, types)
    type_callable(row.function)(lambda context: _refuse if _is_cuda(context) else typer)
    emit = _EMITTERS[row.operation]

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        assert not _is_cuda(context), row.name
        if is_faults_build and row.is_access:
            faults.emit_tick(builder)
        result = emit(builder, row, list(args))
        return context.get_dummy_value() if row.result == "void" else result

    lower_builtin(row.function, *[TYPES[name] for name in row.operands])(lower)


for _row in TABLE.values():
    _register(_row, config.build() == "faults")
