"""A function's syntax tree with every call in a statement of its own, evaluated in the order that it was written in.

`while i - load(HEAD) >= 2: pause()` becomes `.1 = True; while .1: .2 = i; .3 = load(HEAD); if .2 - .3 >= 2: ...`.
The interpreter's stack is then empty at every call, so the state of a lane that waits there is its place and its
locals. Lines stay those of the source. The names that are added begin with a dot, which no name in a source does.

Left as they are: `with` blocks, exception handlers, guards of cases, comprehensions, and functions inside.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

CALLED, WALKED = ".called", ".walked"  # names of the functions `rewritten` and `walked` of rewrite.py


def in_statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """The body of a function, rewritten."""
    return _Rewriting().block(body)


class _Part(NamedTuple):
    """A slot of a syntax node that holds an expression."""

    holder: Any
    field: str
    number: int | None = None  # in a list

    def get(self) -> ast.expr:
        value = getattr(self.holder, self.field)
        return value if self.number is None else value[self.number]

    def set(self, value: ast.expr) -> None:
        if self.number is None:
            setattr(self.holder, self.field, value)
        else:
            getattr(self.holder, self.field)[self.number] = value

    @property
    def is_unpacked(self) -> bool:
        """Whether it is the x of `**x`."""
        if isinstance(self.holder, ast.Dict):
            return self.field == "values" and self.holder.keys[self.number or 0] is None
        return isinstance(self.holder, ast.keyword) and self.holder.arg is None


def _parts(node: ast.AST) -> Iterator[_Part]:
    """The expressions that are evaluated for `node`, in their order."""
    match node:
        case ast.Dict(keys=keys):
            for index, key in enumerate(keys):
                if key is not None:
                    yield _Part(node, "keys", index)
                yield _Part(node, "values", index)
        case ast.NamedExpr():
            yield _Part(node, "value")
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield _Part(node.generators[0], "iter")  # the rest belongs to the comprehension
        case ast.Lambda(args=args):
            yield from (_Part(args, "defaults", index) for index in range(len(args.defaults)))
            for index, default in enumerate(args.kw_defaults):
                if default is not None:
                    yield _Part(args, "kw_defaults", index)
        case _:
            yield from _fields(node)


def _fields(node: ast.AST) -> Iterator[_Part]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            yield _Part(node, field)
        for index, item in enumerate(value if isinstance(value, list) else ()):
            if isinstance(item, ast.keyword):
                yield _Part(item, "value")
            elif isinstance(item, ast.expr):
                yield _Part(node, field, index)


def _calls(node: ast.AST) -> bool:
    """Whether a call is made while `node` is evaluated."""
    return isinstance(node, ast.Call) or any(_calls(part.get()) for part in _parts(node))


def _has_call(nodes: list[Any]) -> bool:
    """Whether a call stands anywhere in these statements."""
    return any(isinstance(inner, ast.Call) for node in nodes for inner in ast.walk(node))


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _store(name: str) -> ast.Name:
    return ast.Name(name, ast.Store())


class _Rewriting:
    """The statements of one function, written one after the other."""

    def __init__(self) -> None:
        self._num_names = 0
        self._written: list[ast.stmt] = []

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Statements of the same effect, with every call in one of its own."""
        with self._inside() as written:
            for statement in statements:
                self._statement(statement)
        return written

    @contextmanager
    def _inside(self) -> Iterator[list[ast.stmt]]:
        """Context in which statements are written into a new block, which it yields."""
        outer, self._written = self._written, []
        yield self._written
        self._written = outer

    def _write(self, statement: ast.stmt, at: ast.AST) -> None:
        self._written.append(ast.copy_location(statement, at))

    def _set(self, name: str, value: ast.expr, at: ast.AST) -> None:
        self._write(ast.Assign([_store(name)], value), at)

    def _name(self) -> str:
        self._num_names += 1
        return f".{self._num_names}"

    # --- statements

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.AnnAssign(value=ast.expr() as value) if _calls(value) or _calls(node.target):
                self._statement(ast.copy_location(ast.Assign([node.target], value), node))
            case ast.Assign(targets=targets) if any(map(_calls, targets)):
                value = self._hold(self._lift(node.value))
                for target in targets:
                    self._assign(target, value)
            case ast.AugAssign() if _calls(node.value) or _calls(node.target):
                self._augment(node)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target)
            case ast.Assert() if _calls(node.test) or (node.msg is not None and _calls(node.msg)):
                self._assert(node)
            case ast.While() if _calls(node.test):
                self._while(node)
            case ast.For() if _has_call([node.target, *node.body]):
                self._for(node)
            case _:
                self._rewrite_inside(node)
                self._write(node, node)

    def _rewrite_inside(self, node: ast.stmt) -> None:
        """Rewrite the parts of a statement that stays one: the expressions that it evaluates first, and its blocks."""
        match node:
            case ast.Expr() | ast.Return() | ast.Raise():
                self._lift_parts(node)
            case ast.Assign():
                node.value = self._lift(node.value)
            case ast.If():
                node.test = self._lift(node.test)
                node.body, node.orelse = self.block(node.body), self.block(node.orelse)
            case ast.While():
                node.body, node.orelse = self.block(node.body), self.block(node.orelse)
            case ast.For():
                node.iter, node.orelse = self._lift(node.iter), self.block(node.orelse)
            case ast.Try():
                node.body, node.orelse = self.block(node.body), self.block(node.orelse)
                node.finalbody = self.block(node.finalbody)
            case ast.Match():
                node.subject = self._lift(node.subject)
                for case in node.cases:
                    case.body = self.block(case.body)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        """Give `target`, in which a call may be made, a value that waits in a local."""
        if isinstance(target, ast.Tuple | ast.List) and _calls(target):
            names = [self._name() for _ in target.elts]
            items: list[ast.expr] = [
                ast.Starred(_store(name), ast.Store()) if isinstance(item, ast.Starred) else _store(name)
                for name, item in zip(names, target.elts, strict=True)
            ]
            self._write(ast.Assign([ast.Tuple(items, ast.Store())], value), target)
            for name, item in zip(names, target.elts, strict=True):
                self._assign(item.value if isinstance(item, ast.Starred) else item, _load(name))
            return
        self._lift_parts(target)
        self._write(ast.Assign([target], value), target)

    def _augment(self, node: ast.AugAssign) -> None:
        """Evaluate the target's parts, its old value and the other operand, in this order; then store the result."""
        target = node.target
        for part in _parts(target):
            part.set(self._keep(self._lift(part.get())))
        old = deepcopy(target)
        old.ctx = ast.Load()
        name = self._name()
        self._set(name, old, target)
        self._write(ast.AugAssign(_store(name), node.op, self._lift(node.value)), node)
        self._write(ast.Assign([target], _load(name)), node)

    def _delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._delete(item)
        else:
            self._lift_parts(target)
            self._write(ast.Delete([target]), target)

    def _assert(self, node: ast.Assert) -> None:
        """Evaluate the message only where the test fails, and both only where asserts are compiled."""
        with self._inside() as checked:
            test = self._lift(node.test)
            with self._inside() as failed:
                message = self._lift(node.msg) if node.msg is not None else None
                self._write(ast.Assert(ast.Constant(False), message), node)
            self._write(ast.If(ast.UnaryOp(ast.Not(), test), failed, []), node)
        self._write(ast.If(_load("__debug__"), checked, []), node)

    def _while(self, node: ast.While) -> None:
        """Evaluate the condition at the head of each turn; `else` stays behind the loop, where its `break` belongs."""
        goes_on = self._name()
        self._set(goes_on, ast.Constant(True), node)
        with self._inside() as turn:
            test = self._lift(node.test)
            body = self.block(node.body)
            with self._inside() as end:
                self._set(goes_on, ast.Constant(False), node.test)
            self._write(ast.If(test, body, end), node.test)
        self._write(ast.While(_load(goes_on), turn, self.block(node.orelse)), node)

    def _for(self, node: ast.For) -> None:
        """Keep the items that are left in a local, not in an iterator, whose state cannot be compared."""
        rest = self._name()
        self._set(rest, ast.Call(_load(WALKED), [self._lift(node.iter)], []), node.iter)
        with self._inside() as turn:
            item = self._hold(
                ast.copy_location(ast.Subscript(_load(rest), ast.Constant(0), ast.Load()), node)
            )
            others = ast.Subscript(_load(rest), ast.Slice(ast.Constant(1)), ast.Load())
            self._set(rest, others, node)
            self._assign(node.target, item)
            self._written += self.block(node.body)
        self._write(ast.While(_load(rest), turn, self.block(node.orelse)), node)

    # --- expressions

    def _lift(self, node: ast.expr) -> ast.expr:
        """Write the calls of `node` as statements; the expression that is returned makes no call."""
        if not _calls(node):
            return node
        match node:
            case ast.BoolOp(values=[_, *others]) if any(map(_calls, others)):
                name = self._name()
                self._choose(name, node.values, isinstance(node.op, ast.And))
                return ast.copy_location(_load(name), node)
            case ast.Compare(comparators=[_, *others]) if any(map(_calls, others)):
                name = self._name()
                self._compare(name, self._keep(self._lift(node.left)), node.ops, node.comparators)
                return ast.copy_location(_load(name), node)
            case ast.IfExp() if _calls(node.body) or _calls(node.orelse):
                return self._if(node)
        self._lift_parts(node)
        if isinstance(node, ast.Call):
            node.func = ast.copy_location(ast.Call(_load(CALLED), [node.func], []), node.func)
            return self._hold(node)
        return node

    def _lift_parts(self, node: ast.AST) -> None:
        """Replace every part of `node` up to the last one with a call by a local that holds its value."""
        parts = list(_parts(node))
        last = max((index for index, part in enumerate(parts) if _calls(part.get())), default=-1)
        for index, part in enumerate(parts[: last + 1]):
            value = self._lift(part.get())
            if part.is_unpacked:
                value = ast.copy_location(ast.Dict([None], [value]), value)  # as it is now
            part.set(value if index == last else self._keep(value))

    def _keep(self, node: ast.expr) -> ast.expr:
        """Evaluate `node` now; returns the expression that stands for its value later."""
        match node:
            case ast.Constant():
                return node
            case ast.Starred(value=value):
                items = ast.Tuple([ast.Starred(value, ast.Load())], ast.Load())
                node.value = self._hold(ast.copy_location(items, node))
                return node
            case ast.FormattedValue():
                text = self._hold(ast.copy_location(ast.JoinedStr([node]), node))
                return ast.copy_location(ast.FormattedValue(text, -1, None), node)
            case ast.Slice():
                for part in _parts(node):
                    part.set(self._keep(part.get()))
                return node
            case ast.Tuple(elts=items) if any(isinstance(item, ast.Slice) for item in items):
                for part in _parts(node):
                    part.set(self._keep(part.get()))
                return node
        return self._hold(node)

    def _hold(self, node: ast.expr) -> ast.expr:
        name = self._name()
        self._set(name, node, node)
        return ast.copy_location(_load(name), node)

    def _choose(self, name: str, values: list[ast.expr], is_and: bool) -> None:
        """Give the local `name` the value of an `and` or `or`: the first of `values` that decides, or the last one."""
        first, *others = values
        self._set(name, self._lift(first), first)
        if others:
            with self._inside() as undecided:
                self._choose(name, others, is_and)
            test = _load(name) if is_and else ast.UnaryOp(ast.Not(), _load(name))
            self._write(ast.If(test, undecided, []), first)

    def _compare(self, name: str, left: ast.expr, ops: list[ast.cmpop], values: list[ast.expr]) -> None:
        """Give the local `name` the value of a chain of comparisons: pair by pair, until one does not hold."""
        right = self._lift(values[0])
        if values[1:]:
            right = self._keep(right)
        self._set(name, ast.Compare(left, [ops[0]], [right]), values[0])
        if values[1:]:
            with self._inside() as holds:
                self._compare(name, right, ops[1:], values[1:])
            self._write(ast.If(_load(name), holds, []), values[0])

    def _if(self, node: ast.IfExp) -> ast.expr:
        name, test = self._name(), self._lift(node.test)
        branches = []
        for value in (node.body, node.orelse):
            with self._inside() as branch:
                self._set(name, self._lift(value), value)
            branches.append(branch)
        self._write(ast.If(test, *branches), node)
        return ast.copy_location(_load(name), node)
