"""Rewritten for the search, a function makes the same accesses in the same order, and comes to the same end."""

from __future__ import annotations

import itertools
import linecache
import random
import textwrap

import pytest

from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.scalar import compare_swap_i64, load_i64, store_i64
from umem.verify.kernel.rewrite import rewritten

NUMBERS = itertools.count()


class Recorder(machine.Machine):
    """Notes each access; loads find 3, 2, 1, 0, 0, 3, ..."""

    def __init__(self):
        self.accesses = []

    def load(self, address, element, ordering):
        if len(self.accesses) == 1000:
            raise RuntimeError("does not end")
        self.accesses.append(("load", address, ordering))
        number = len(self.accesses)
        return (7 * number + number // 5) % 4

    def store(self, address, element, value, ordering):
        self.accesses.append(("store", address, value))

    def rmw(self, operation, address, element, operands, ordering):
        self.accesses.append((operation, address, operands))
        return len(self.accesses) % 2


def ran(function, *arguments):
    """(how it ended, its accesses)"""
    with machine.use(Recorder()) as recorder:
        try:
            end = function(*arguments)
        except Exception as error:  # noqa: BLE001 - that both raise the same is the test
            end = type(error), str(error)
    return end, recorder.accesses


def written(body, arguments="x, y"):
    """A function of this text, and its source where tools look for it."""
    source = f"def function({arguments}):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    file = f"written_{next(NUMBERS)}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = {"load": load_i64, "swap": compare_swap_i64, "store": store_i64, "both": both, "Cell": Cell}
    exec(compile(source, file, "exec", dont_inherit=True), names)
    return names["function"]


def both(first, second=5, *others, **more):
    """Calls and reads its arguments in an order of its own."""
    return load_i64(second, 0) + first + sum(others) + sum(more.values())


class Cell:
    """An object with an attribute, items, and a method that loads."""

    def __init__(self):
        self.value, self.items = 3, [1, 2, 3]

    def look(self, address):
        return self.value - load_i64(address, 0)

    def __getitem__(self, key):
        return str(key)


BODIES = {
    "operands": "return (x - load(x, 0)) * load(y, 1) - load(load(2, 0), x)",
    "a name that changes meanwhile": "return x + (x := load(1, 0)) + x * load(2, 0)",
    "a name without a value": """
        return z + load(1, 0)
        z = 1
    """,
    "and, or": "return load(1, 0) and load(2, 0) or not load(3, 0) or x and load(4, 0)",
    "choice": """
        z = load(9, 0) if y else load(8, 0)
        return -load(x, 2) if z else both(x) if load(x, 1) else [load(x, 0)]
    """,
    "choices": "return load(1, 0) if load(2, 0) > 1 else (load(3, 0) if x else load(4, 0))",
    "chain": """
        return x < load(1, 0) <= load(2, 0) < load(3, 0) != y, 0 <= load(4, 0) < 9 > load(5, 0)
    """,
    "is, in": "return load(1, 0) in (load(2, 0), load(3, 0)), load(4, 0) is not None",
    "arguments": """
        if x > 1:
            return both(load(1, 0), *(load(2, 0), 3), k=load(4, 0))
        more = {'m': 4}
        return both(load(1, 0), load(2, 0), *(3, load(3, 0)), k=load(4, 0), **more, l=load(5, 0))
    """,
    "arguments that grow": """
        a, more = [1], {'k': 2}
        x = both(1, 2, *a, a.append(7) or load(1, 0), **more, l=more.update(m=5) or load(2, 0))
        return x, {**more, 'n': more.update(o=5) or load(3, 0)}, [*a, a.append(8) or load(4, 0)]
    """,
    "what is called": "return (both if load(1, 0) else max)(load(2, 0), load(3, 0))",
    "methods": """
        c = Cell()
        return c.look(load(1, 0)) + Cell().look(c.look(2)) * Cell.look(c, load(3, 0))
    """,
    "bound before": """
        c = Cell()
        look = c.look
        c.look = max
        return look(c.look(load(1, 0), 2))
    """,
    "displays": """
        return [load(1, 0), *(load(2, 0), x)], {load(3, 0): load(4, 0), **{7: load(5, 0)}}, {load(6, 0)}
    """,
    "slices": """
        a = [1, 2, 3, 4]
        b = a[load(1, 0):load(2, 0) + 3], a[::load(3, 0) or 1], a[load(4, 0)]
        a[x:2] += [(x := load(5, 0))]
        return a, b, x, Cell()[x:y, (x := load(6, 0) + 9), x:load(7, 0)]
    """,
    "text": "return f'{x}{load(1, 0)!r:>{load(2, 0) + 4}}-{y:{load(3, 0)}}-{load(4, 0)}'",
    "lambda": """
        f = lambda a, b=load(1, 0): a + b + load(a, 0)
        return f(load(2, 0)) + f(1, b=load(3, 0))
    """,
    "assignments": """
        a = b, *c = load(1, 0), load(2, 0), load(3, 0)
        return a, b, c
    """,
    "targets": """
        a = [0] * 8
        a[load(1, 0)], (a[load(2, 0) + 4], *a[6:]) = b = load(3, 0), (load(4, 0), 8)
        return a, b
    """,
    "a target fails": """
        a = []
        a[load(1, 0)] = load(2, 0)
    """,
    "augmented": """
        a = [1, 2, 3, 4]
        a[load(1, 0)] += load(2, 0)
        x += load(3, 0)
        x -= x * load(4, 0)
        a[1:2] += [load(5, 0)]
        c = Cell()
        c.value *= load(6, 0)
        c.items[load(7, 0) % 3] |= load(8, 0)
        return a, x, c.value, c.items
    """,
    "augmented, the same object": """
        a = b = [1]
        a += [load(1, 0)]
        return a is b, b
    """,
    "annotated": """
        a: int = load(1, 0)
        b: list[load] = [0] * 4
        b[load(2, 0)]: int = load(3, 0)
        c: int
        return a, b
    """,
    "deleted": """
        a = [1, 2, 3, 4, 5, 6]
        del a[load(1, 0)], (a[load(2, 0)], x)
        return a
    """,
    "assert": """
        assert load(1, 0) + 1
        assert load(2, 0) < 0, f'{load(3, 0)} and {x}'
    """,
    "raise": "raise ValueError(load(1, 0)) from KeyError(load(2, 0))",
    "while": """
        while x < 9 and load(x, 0) < 3:
          x += load(x, 1) + 1
          if load(x, 2) == 1:
            continue
          if x > 7:
            break
        else:
          return load(99, 0)
        return x
    """,
    "else of while": """
        while True:
          while load(x, 0):
            x += 1
            if load(x, 1) == 3:
              break
          else:
            y += 1
            if y > 4:
              break
            continue
          y += load(2, 2) + 1
          if y > 20:
            return -1, x
        return x, y
    """,
    "for": """
        for i, a in enumerate((5, 6, 7)):
          if load(i, 0) == 3:
            continue
          x += load(a, 0)
        else:
          x += load(9, 0)
        for i in range(9, 2, -load(1, 0) - 2):
          if load(i, 0) == 2:
            break
        else:
          y = load(77, 0)
        return x, y, i, a
    """,
    "for, targets": """
        a = [0] * 5
        for a[load(1, 0)], (b, *c) in [(1, (2, 3)), (4, (5,))]:
          x += b
        return a, b, c, x
    """,
    "for, without accesses": """
        for i in range(load(1, 0)):
          x += i
        else:
          x += load(2, 0)
        return x
    """,
    "try": """
        try:
          x = load(1, 0) // (load(2, 0) - load(2, 0))
        except ZeroDivisionError as e:
          x = -1
        else:
          x = load(3, 0)
        finally:
          y += load(4, 0)
        return x, y
    """,
    "return in try": """
        try:
          return load(1, 0)
        finally:
          store(2, 0, load(3, 0))
    """,
    "match": """
        match load(1, 0), x:
          case 0, a:
            return a - load(2, 0)
          case a, b if a > b:
            return load(3, 0)
          case _:
            return load(4, 0) + load(5, 0)
    """,
    "nested": """
        def inner(a):
          nonlocal x
          x = x - load(a, 0) * swap(1, 0, load(2, 0), a)
          return x + load(3, 0)
        return inner(load(4, 0)) - inner(1), x, y
    """,
    "stores": """
        store(1, load(2, 0), load(3, 0) + 1) or store(x, 0, 5)
        return swap(load(1, 0), 0, load(2, 0), y)
    """,
    "nothing of this": """
        '''Text.'''
        global z
        z = x
        import math
        with open('/dev/null') as f:
          pass
        return z, math.gcd(4, 6)
    """,
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("arguments", [(1, 2), (3, 0)])
def test_the_same_accesses_in_the_same_order(name, arguments):
    function = written(BODIES[name])
    assert rewritten(function) is not function
    assert ran(rewritten(function), *arguments) == ran(function, *arguments)


def expression(rng, depth):
    """Text of an expression, nested up to `depth`."""
    if depth == 0 or rng.random() < 0.1:
        return rng.choice(["x", "y", "0", "1", "2", "load(3, 0)", "load(x, 1)", "int(f'{y}{load(2, 0)}')"])
    patterns = (
        *["load({}, 1)"] * 3,
        "both({}, second={}, k={})",
        "both({}, *({}, {}))",
        *[f"({{}} {operator} {{}})" for operator in ("+", "-", "*", "//", "and", "or")],
        *[f"({{}} {first} {{}} {second} {{}})" for first, second in (("<", "<="), ("==", "!="))],
        *["({} if {} else {})"] * 2,
        "(x := {})",
        "a[({}) % 4]",
        "(lambda p, q={}: q - p - load(p, 2))({})",
    )
    pattern = rng.choice(patterns)
    return pattern.format(*[expression(rng, depth - 1) for _ in range(pattern.count("{}"))])


def block(rng, depth):
    """Text of a few indented statements."""
    text = "\n".join(statement(rng, depth) for _ in range(rng.randint(1, 3)))
    return textwrap.indent(text, "  ")


def statement(rng, depth):
    """Text of a statement, nested up to `depth`."""
    if depth == 0 or rng.random() < 0.3:
        target = rng.choice(["x", "y", "a[y % 4]", "a[load(4, 0)]"])
        patterns = (
            "x = {}",
            f"{target} {rng.choice('+-|')}= {{}}",
            "a[({}) % 4], y = {}, {}",
            "assert {}, {}",
            "return {}, x",
            "if turns > 3: break",
            "if load(8, 0): continue",
        )
        pattern = rng.choice(patterns)
        return pattern.format(*[expression(rng, 3) for _ in range(pattern.count("{}"))])
    patterns = (
        "if {}:\n{}\nelse:\n{}",
        "while (turns := turns + 1) < 6 and {}:\n{}\nelse:\n{}",
        "for y in (1, {}):\n{}\nelse:\n{}",
        "try:\n{1}\nexcept ZeroDivisionError:\n  y = {0}\nfinally:\n{2}",
    )
    inside = [block(rng, depth - 1) for _ in range(2)]
    if "continue" in inside[1] or "break" in inside[1] or "return" in inside[1]:
        inside[1] = "  x = load(7, 0)"  # 3.14 warns of those in `finally`
    return rng.choice(patterns).format(expression(rng, 3), *inside)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_written(seed):
    rng = random.Random(seed)
    for _ in range(25):
        statements = "\n".join(statement(rng, 2) for _ in range(3))
        body = textwrap.indent(statements, "  ")
        text = f"a = [1, 2, 3, 4]\nturns = 0\nfor _ in (1, 2):\n{body}\nreturn x, y, a"
        function = written(text)
        assert rewritten(function) is not function
        assert ran(rewritten(function), 1, 2) == ran(function, 1, 2), text
