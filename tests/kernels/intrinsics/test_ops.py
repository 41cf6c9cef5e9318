"""Every scalar intrinsic leaves the same bytes and result compiled as in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError

from tests.kernels.kernel_memory import Buffer, InterpretedMemory
from umem.kernels import cpu_kernel
from umem.kernels.intrinsics import machine
from umem.kernels.intrinsics.table import TABLE, Intrinsic

OPERATIONS = ("load", "store", "fetch_add", "fetch_or", "fetch_and", "exchange", "compare_swap")
ROWS = [row for row in TABLE.values() if row.operation in OPERATIONS]
NUMPY = {"i": "int", "u": "uint", "f": "float"}
BUFFER_BYTES = 256


def numpy_name(row: Intrinsic) -> str:
    assert row.element is not None
    return f"{NUMPY[row.element.kind]}{8 * row.element.num_bytes}"


def caller(row: Intrinsic) -> Callable[..., Any]:
    """An undecorated kernel that does nothing but `row`."""
    intrinsic = row.function

    def without_value(base, index):
        return intrinsic(base, index)

    def with_value(base, index, value):
        return intrinsic(base, index, value)

    def with_two_values(base, index, first, second):
        return intrinsic(base, index, first, second)

    return {2: without_value, 3: with_value, 4: with_two_values}[len(row.operands)]


def compiled(row: Intrinsic) -> Callable[..., Any]:
    """`caller` compiled for wide values, so that the intrinsic itself has to wrap them."""
    assert row.element is not None
    wide = "float64" if row.element.kind == "f" else "int64"
    result = "void" if row.result == "void" else numpy_name(row)
    operands = ["int64", "int64", *[wide] * (len(row.operands) - 2)]
    return cpu_kernel(f"{result}({', '.join(operands)})")(caller(row))


def values(row: Intrinsic) -> list[Any]:
    """Ends of the type's range, beyond them, and negative ones."""
    assert row.element is not None
    bits = 8 * row.element.num_bytes
    if row.element.kind == "f":
        return [0.0, -0.0, 1.5, -2.75, 1e300, 1e-46, 2.0**-149, 0.1, math.inf, -math.inf]
    top = 1 << (bits - 1)
    ends = [0, 1, -1, 5, top, top - 1, -top, 2 * top - 1, 2 * top]
    return [value for value in ends if -(2**63) <= value < 2**63] + [0x0123456789ABCDEF, -0x0123456789ABCDEF]


def same(left: Any, right: Any) -> bool:
    """Equal type and bits; all NaN are one."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or left.hex() == right.hex()
    return bool(left == right)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_compiled_form_equals_the_plain_body(row: Intrinsic, interpreted: InterpretedMemory) -> None:
    assert row.element is not None
    kernel, body = compiled(row), caller(row)
    random = np.random.default_rng(1)
    left, right = Buffer(BUFFER_BYTES), Buffer(BUFFER_BYTES)
    size = row.element.num_bytes
    # Plain accesses may be unaligned on the CPU, ordered ones must be aligned.
    offsets = (128, 129, 131, 133) if row.ordering == "plain" else (128, 128 + size)
    for offset in offsets:
        for index in (-3, 0, 2):
            content = random.integers(0, 256, BUFFER_BYTES, dtype=np.uint8).tobytes()
            position = offset + index * size
            for value in values(row):
                operands = [value] * (len(row.operands) - 2)
                if row.operation == "compare_swap" and value != 5:  # both outcomes: equal, and not
                    expected = np.array([row.element.wrap(value)], numpy_name(row)).tobytes()
                    content = content[:position] + expected + content[position + size :]
                    operands[1] = 77
                left.write(content)
                right.write(content)
                got = kernel(left.address + offset, index, *operands)
                with machine.use(interpreted):
                    wanted = body(right.address + offset, index, *operands)
                assert left.read() == right.read(), (offset, index, operands)
                assert same(got, wanted), (offset, index, operands)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_plain_body_agrees_with_numpy(row: Intrinsic, interpreted: InterpretedMemory) -> None:
    assert row.element is not None
    name = numpy_name(row)
    if name.startswith("float"):
        with np.errstate(over="ignore"):
            cells = [np.array(value).astype(name) for value in values(row)]
    else:
        cells = [np.array(value).astype("int64").astype(name) for value in values(row)]
    for value, cell in zip(values(row), cells, strict=True):
        buffer = Buffer(64)
        before = np.full(8, 3, name)
        buffer.write(before.tobytes())
        after = before.copy()
        with machine.use(interpreted), np.errstate(over="ignore"):
            match row.operation:
                case "load":
                    assert same(row.function(buffer.address, 1), before[1].item())
                case "store":
                    row.function(buffer.address, 1, value)
                    after[1] = cell
                case "compare_swap":
                    assert row.function(buffer.address, 1, 3, value) == 3
                    assert row.function(buffer.address, 2, 4, value) == 3
                    after[1] = cell
                case _:
                    assert row.function(buffer.address, 1, value) == 3
                    after[1] = {
                        "fetch_add": lambda old, new: old + new,
                        "fetch_or": lambda old, new: old | new,
                        "fetch_and": lambda old, new: old & new,
                        "exchange": lambda old, new: new,
                    }[row.operation](before[1], cell)
        assert buffer.read()[: after.nbytes] == after.tobytes()


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.operands) > 2], ids=lambda row: row.name)
def test_direct_memory_runs_the_real_instruction(row: Intrinsic) -> None:
    """Plain Python on real memory: the default machine gives the interpreted machine's result."""
    assert row.element is not None
    left, right = Buffer(64), Buffer(64)
    operands = [-1] * (len(row.operands) - 2)
    if row.element.kind == "u":
        operands = [row.element.wrap(-1)] * len(operands)
    got = row.function(left.address, 1, *operands)
    with machine.use(InterpretedMemory()):
        wanted = row.function(right.address, 1, *operands)
    assert left.read() == right.read()
    assert got == wanted


@pytest.mark.parametrize("name", ["store_i32", "store_release_u64", "fetch_add_i64"])
def test_a_float_is_refused_where_an_integer_belongs(name: str) -> None:
    row = TABLE[name]
    with pytest.raises(TypeError):
        row.function(Buffer(64).address, 0, 1.5)
    intrinsic = row.function

    def body(base, value):
        intrinsic(base, 0, value)

    with pytest.raises(TypingError):
        cpu_kernel("void(int64, float64)")(body).load()


def test_every_access_reaches_the_machine_with_its_ordering() -> None:
    seen = InterpretedMemory()
    buffer = Buffer(64)
    with machine.use(seen):
        for row in ROWS:
            row.function(buffer.address, 1, *[1] * (len(row.operands) - 2))
    assert [entry[0] for entry in seen.log] == [row.operation for row in ROWS]
    assert [entry[3] for entry in seen.log] == [row.ordering for row in ROWS]
    addresses = [buffer.address + row.element.num_bytes for row in ROWS if row.element]
    assert [entry[1] for entry in seen.log] == addresses


def test_use_restores_the_machine_after_an_error(interpreted: InterpretedMemory) -> None:
    before = machine.current
    with pytest.raises(ZeroDivisionError), machine.use(interpreted):
        raise ZeroDivisionError
    assert machine.current is before
