"""Whole numbers as arguments of compiled calls from Python: taken exactly, or not at all.

Numba's own integers take what `int()` takes, and keep the low bits: 3.7 becomes 3, and 300 becomes 44 in a
byte. A parameter of type `Whole(t)` takes Python's and NumPy's integers and bools; what `t` cannot hold is an
OverflowError, everything else a TypeError. The body takes the number out by `exact`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.typeconv.rules import default_type_manager
from numba.core.typing import signature
from numba.extending import NativeValue, lower_builtin, register_model, type_callable, unbox


class Whole(types.Type):
    """Numba's type of an argument that holds an integer of type `plain`."""

    def __init__(self, plain: Any):  # an Integer of Numba's
        self.plain = plain
        super().__init__(name=f"Whole({plain})")


@register_model(Whole)
class WholeModel(models.PrimitiveModel):
    """The integer itself."""

    def __init__(self, manager: Any, kind: Whole):
        super().__init__(manager, kind, ir.IntType(kind.plain.bitwidth))


def whole(plain: Any) -> Whole:
    """The type `Whole(plain)`, which calls from Python find by the types of their arguments."""
    kind = Whole(plain)
    for given in (types.boolean, *types.integer_domain):
        default_type_manager.set_unsafe_convert(given, kind)
    return kind


def exact(number):
    """The number that an argument holds, which may be of type `Whole`."""
    return number


@type_callable(exact)
def _type_exact(context: Any) -> Any:
    def typer(number: types.Type) -> Any:
        return signature(number.plain if isinstance(number, Whole) else number, number)

    return typer


@lower_builtin(exact, types.Any)
def _lower_exact(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    return args[0]


@unbox(Whole)
def _unbox(kind: Whole, given: ir.Value, c: Any) -> NativeValue:
    builder, api, plain = c.builder, c.pyapi, kind.plain
    result = cgutils.alloca_once_value(builder, ir.IntType(plain.bitwidth)(0))
    as_index = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(api.pyobj, [api.pyobj]), "PyNumber_Index"
    )
    number = builder.call(as_index, [given])
    with cgutils.if_likely(builder, cgutils.is_not_null(builder, number)):
        wide = api.long_as_longlong(number) if plain.signed else api.long_as_ulonglong(number)
        api.decref(number)
        narrow = builder.trunc(wide, ir.IntType(plain.bitwidth)) if plain.bitwidth < 64 else wide
        if plain.bitwidth < 64:
            back = builder.sext(narrow, wide.type) if plain.signed else builder.zext(narrow, wide.type)
            # The range of 64 bits has been checked: by an error that must not be replaced.
            is_lost = builder.icmp_unsigned("!=", back, wide)
            with (
                builder.if_then(is_lost, likely=False),
                builder.if_then(cgutils.is_null(builder, api.err_occurred())),
            ):
                api.err_set_string("PyExc_OverflowError", f"the number does not fit {plain}")
        builder.store(narrow, result)
    return NativeValue(builder.load(result), is_error=api.c_api_error())
