"""One kernel source for several element types and widths.

Numba types a kernel's arguments, but an intrinsic's type is in its name. A variant is the same code with
some of its global names bound to other functions or constants, under a name of its own: Numba caches each
apart, and a model checker or a reader still meets one source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType, SimpleNamespace
from typing import Any

from .compile import CORE, INLINED, device_function, inlined_function

ON_DEMAND = "on demand"  # group of kernels that are compiled when first called, not by the first start of all


def variant(template: Callable[..., Any], name: str, **names: Any) -> Any:
    """A device function like `template`, called `name`, in which the globals `names` have the given values.

    Every key of `names` must occur in the template. Other globals are taken as they are now: define what
    the template calls before its variants.
    """
    assert isinstance(template, FunctionType)
    unused = set(names) - set(template.__code__.co_names)
    assert not unused, f"{template.__name__} does not use {sorted(unused)}"
    code = template.__code__.replace(co_name=name, co_qualname=name)
    copy = FunctionType(code, {**template.__globals__, **names}, name, template.__defaults__)
    copy.__doc__ = template.__doc__
    return inlined_function(copy) if template in INLINED else device_function(copy)


def bind(template: Callable[..., Any], suffix: str, names: dict[str, Any]) -> Any:
    """The variant `<template>_<suffix>` with those of `names` that the template uses."""
    used = set(template.__code__.co_names)
    bound = {key: value for key, value in names.items() if key in used}
    return variant(template, f"{template.__name__}_{suffix}", **bound)


def group_of(element: str) -> str:
    """Group of the kernels for an element type: float32 is compiled with the first start of all, the rest on demand."""
    return CORE if element == "f32" else ON_DEMAND


def family(templates: Iterable[Callable[..., Any]], suffix: str, **names: Any) -> SimpleNamespace:
    """Variants of functions that call each other, callees first: `<template>_<suffix>`, by template name.

    Each gets those of `names` that it uses, and calls the members of the family made before it.
    """
    made: dict[str, Any] = {}
    for template in templates:
        made[template.__name__] = bind(template, suffix, {**names, **made})
    return SimpleNamespace(**made)
