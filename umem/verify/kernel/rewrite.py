"""Functions rewritten from their source so that every call is a statement of its own (statements.py).

A function is rewritten when a kernel calls it, so one that a test puts in its place is found too. A function without
source runs as it is: an access in the middle of one of its expressions is refused (lane.py).
"""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import linecache
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from ...errors import ModelError
from ...kernels.intrinsics.table import TABLE
from .statements import CALLED, WALKED, in_statements

SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
MAX_ITEMS = 100_000  # of a `for` over anything but a range
_INTRINSICS = {row.function for row in TABLE.values()}
_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_ROOT = ".root"  # the function, in the code that is compiled

_Function = ast.FunctionDef | ast.Lambda
_rewritten: WeakKeyDictionary[FunctionType, FunctionType] = WeakKeyDictionary()


def rewritten(function: Any) -> Any:
    """A function of the same effect with every call a statement of its own; `function` itself if it has no source."""
    if isinstance(function, FunctionType):
        found = _rewritten.get(function)
        if found is None:
            found = _rewritten[function] = _of(function)
        return found
    if isinstance(function, MethodType):
        return MethodType(rewritten(function.__func__), function.__self__)
    if isinstance(function, functools.partial):
        return functools.partial(rewritten(function.func), *function.args, **function.keywords)
    return function


def walked(items: Iterable[Any]) -> Sequence[Any]:
    """The items of a `for` as a sequence, which unlike an iterator can be compared. Raises ModelError for too many."""
    if isinstance(items, range):
        return items
    found = tuple(islice(items, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise ModelError(f"a `for` over more than {MAX_ITEMS:,} items has no model; use `while`")
    return found


_HELPERS = {CALLED: rewritten, WALKED: walked}


def _of(function: FunctionType) -> FunctionType:
    if function in _INTRINSICS:
        return function
    code = _code_of(function.__code__, function.__code__.co_filename)
    if code is None:
        return function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: CellType(helper) for name, helper in _HELPERS.items()}
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


@functools.cache
def _code_of(code: CodeType, file: str) -> CodeType | None:
    """The code, rewritten; None where no source is found, or the source is that of other code."""
    if code.co_flags & SUSPENDED:
        return None
    for node in _functions_of("".join(linecache.getlines(file))).get(code.co_firstlineno, ()):
        if isinstance(node, ast.Lambda) != (code.co_name == "<lambda>") or not _is_at(node, code):
            continue
        found = _compiled(deepcopy(node), code)
        num_arguments = code.co_argcount + code.co_kwonlyargcount
        is_same = (
            found.co_varnames[:num_arguments] == code.co_varnames[:num_arguments]
            and {*found.co_freevars} <= {*code.co_freevars, *_HELPERS}
            and {*found.co_names} <= {*code.co_names}
        )
        if is_same:
            return found
    return None


@functools.lru_cache(maxsize=64)
def _functions_of(source: str) -> dict[int, list[_Function]]:
    """The functions in `source`, by the line on which their code begins."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    found: dict[int, list[_Function]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            decorators = getattr(node, "decorator_list", [])
            found.setdefault(min(item.lineno for item in (node, *decorators)), []).append(node)
    return found


def _is_at(node: _Function, code: CodeType) -> bool:
    """Whether `code` belongs to this function: several lambdas may begin on one line."""
    if isinstance(node, ast.FunctionDef):
        return True
    body = node.body
    return (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in set(code.co_positions())


def _compiled(node: _Function, code: CodeType) -> CodeType:
    """The rewritten code of a function, compiled inside a function that has its free variables."""
    if isinstance(node, ast.Lambda):
        body: list[ast.stmt] = [ast.copy_location(ast.Return(node.body), node.body)]
    else:
        body = node.body
    arguments = node.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    for argument in every:
        if argument is not None:
            argument.annotation = None
    module = ast.parse("def maker():\n  def root(): pass")
    maker = module.body[0]
    assert isinstance(maker, ast.FunctionDef)
    root = maker.body[0]
    assert isinstance(root, ast.FunctionDef)
    root.name, root.args, root.body = _ROOT, arguments, in_statements(body)
    root.lineno = root.end_lineno = code.co_firstlineno
    names = [*code.co_freevars, *_HELPERS]
    targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names]
    maker.body.insert(0, ast.Assign(targets, ast.Constant(None), lineno=1))
    ast.fix_missing_locations(module)
    flags = code.co_flags & _FUTURE
    compiled = compile(module, code.co_filename, "exec", flags=flags, dont_inherit=True)
    found = _inner(_inner(compiled, "maker"), _ROOT)
    return found.replace(co_name=code.co_name, co_qualname=code.co_qualname)


def _inner(code: CodeType, name: str) -> CodeType:
    return next(item for item in code.co_consts if isinstance(item, CodeType) and item.co_name == name)
