"""Which arguments an intrinsic accepts in compiled code, for every target."""

from __future__ import annotations

import inspect
from typing import Any

from .table import Intrinsic

VECTOR_ELEMENTS = ("f32", "f64", "i32", "i64", "i8", "u8", "i16")


def accepts(wanted: Any, given: Any, numba_types: Any) -> bool:
    """True where `given` may be passed for `wanted`: integers convert among themselves and to floats,
    never a float to an integer."""
    integers = (numba_types.Integer, numba_types.Boolean)
    if isinstance(wanted, numba_types.Integer):
        return isinstance(given, integers)
    if isinstance(wanted, numba_types.Float):
        return isinstance(given, (*integers, numba_types.Float))
    return bool(given == wanted)


def make_typer(row: Intrinsic, names: dict[str, Any], make_signature: Any, numba_types: Any) -> Any:
    """Numba typing function of `row`: its one signature, or None where an argument does not fit.

    `names` maps the table's type names to the target's Numba types, `numba_types` is the target's module
    of types (numba-cuda has its own).
    """
    operands = [names[name] for name in row.operands]
    result = names[row.result]

    def typer(*given: Any) -> Any:
        if all(accepts(wanted, got, numba_types) for wanted, got in zip(operands, given, strict=True)):
            return make_signature(result, *operands)
        return None

    # The intrinsic's own parameters, so that keywords and a wrong count are treated as Python does.
    typer.pysig = typer.__signature__ = inspect.signature(row.function)  # type: ignore[attr-defined]
    return typer


def type_names(numba_types: Any, make_vector: Any) -> dict[str, Any]:
    """The table's type names as Numba types of one target; `make_vector(element name)` makes its vectors."""
    return {
        "void": numba_types.void,
        "f32": numba_types.float32,
        "f64": numba_types.float64,
        **{f"i{bits}": getattr(numba_types, f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"u{bits}": getattr(numba_types, f"uint{bits}") for bits in (8, 16, 32, 64)},
        **{f"vec_{name}": make_vector(name) for name in VECTOR_ELEMENTS},
    }
