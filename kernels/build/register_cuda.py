"""Enters the table of intrinsics and the device functions into numba-cuda's target.

Importing this module imports numba.cuda, so only `cuda_ptx` does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core.errors import TypingError
from numba.cuda import types
from numba.cuda.datamodel import models
from numba.cuda.extending import lower_builtin, register_jitable, register_model, type_callable
from numba.cuda.typing.templates import Signature

from ..intrinsics.lower_cuda import CUDA_EMITTERS, CUDA_VECTORS
from ..intrinsics.register_cpu import VectorType
from ..intrinsics.table import TABLE, Intrinsic
from ..intrinsics.typing_rules import make_typer, type_names
from . import compile as compiler


@register_model(VectorType)
class CudaVectorModel(models.PrimitiveModel):
    """A vector of 16 B as one LLVM value, which becomes four or two registers."""

    def __init__(self, manager: Any, kind: VectorType):
        super().__init__(manager, kind, CUDA_VECTORS.vector_type(kind.element_name))


TYPES = type_names(types, VectorType)
_num_device_functions = 0


def register_device_functions() -> None:
    """Make known the device functions that were marked since the last call."""
    global _num_device_functions
    for function in compiler.DEVICE_FUNCTIONS[_num_device_functions:]:
        register_jitable(function)
    _num_device_functions = len(compiler.DEVICE_FUNCTIONS)


def _signature(result: Any, *operands: Any) -> Signature:
    # numba-cuda's own `signature` makes Numba's class where Numba is installed, which its typing of
    # callables then refuses.
    return Signature(result, operands, recvr=None)


def _register(row: Intrinsic) -> None:
    typer = make_typer(row, TYPES, _signature, types)
    type_callable(row.function)(lambda context: typer)
    emit = CUDA_EMITTERS[row.operation]

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        result = emit(builder, row, list(args))
        return context.get_dummy_value() if row.result == "void" else result

    lower_builtin(row.function, *[TYPES[name] for name in row.operands])(lower)


def _refuse(row: Intrinsic) -> None:
    def typer(*given: Any) -> Any:
        raise TypingError(f"{row.name} runs on the CPU only: a CUDA kernel cannot call it")

    type_callable(row.function)(lambda context: typer)


for _row in TABLE.values():
    if "cuda" in _row.targets:
        _register(_row)
    else:
        _refuse(_row)
