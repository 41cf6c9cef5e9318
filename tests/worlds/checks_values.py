"""What goes into memory comes out of it, or is refused: values and dtypes; see test_space.py."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import umem
from umem.errors import ArgumentRangeError, ArgumentTypeError
from umem.memory.address import Kind

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
ATOMICS = ("int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
WHOLE_VALUES = (
    *(
        sign * (1 << bits) + near
        for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64)
        for sign in (-1, 1)
        for near in (-1, 0)
    ),
    *(True, np.True_, np.int8(-3), np.uint8(200), np.int32(-70_000), np.uint64((1 << 64) - 1), np.array(5)),
)
REAL_VALUES = (
    *(
        0.1,
        -0.0,
        3.0,
        3.7,
        65519.9,
        65520.0,
        3.39e38,
        1e39,
        1e300,
        5e-324,
        6e-8,
        1e-40,
        float("inf"),
        float("nan"),
    ),
    *(1.00390625, 1.01171875),  # in the middle of two neighbours of bfloat16: to the even one
    *(np.float16(0.1), np.float32(0.1), np.float64(1 / 3), np.longdouble(0.5), np.array(2.5)),
)
NO_NUMBERS = (1j, np.complex64(1), "3", b"3", None, [1], np.array([1]), np.datetime64(3, "s"))


Uses = Iterable[Callable[[], Any]]


def refused_each(uses: Uses, match: str) -> None:
    """Call each; each must raise ArgumentTypeError."""
    for use in uses:
        with pytest.raises(ArgumentTypeError, match=match):
            use()


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype of this name, with bfloat16."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def expected(dtype: str, value: Any) -> np.ndarray | type[Exception]:
    """What NumPy stores for `value`, without dimensions, or the error that is due."""
    if any(value is one for one in NO_NUMBERS) or (
        dtype in INTEGERS and any(value is one for one in REAL_VALUES)
    ):
        return ArgumentTypeError
    stored = np.zeros((), dtype_of(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of floats that become infinite
        try:
            stored[()] = int(value) if dtype in INTEGERS else float(value)
        except OverflowError:
            return ArgumentRangeError
    return stored


def each_value_is_stored_or_refused(space: umem.Space, address: int) -> None:
    """Store every kind of value as every dtype in the 8 bytes at `address`."""
    for dtype in (*INTEGERS, *FLOATS):
        for value in (*WHOLE_VALUES, *REAL_VALUES, *NO_NUMBERS):
            due = expected(dtype, value)
            what = f"{value!r} as {dtype}"
            space.store(address, 0x2A, "int64")
            if isinstance(due, np.ndarray):
                space.store(address, value, dtype)
                found = np.array(space.load(address, dtype), due.dtype)
                assert found.tobytes() == due.tobytes(), f"{what} is {found}, NumPy has {due}"
            else:
                with pytest.raises(due):
                    space.store(address, value, dtype)
                assert space.load(address, "int64") == 0x2A, f"{what} was refused, and stored"


def each_operand_is_used_or_refused(space: umem.Space, address: int) -> None:
    """Do every atomic with every kind of value on the 8 bytes at `address`."""
    for dtype in ATOMICS:
        for value in (*WHOLE_VALUES, 1.9, 2.0, float("nan"), 1j, "3", None):
            due = ArgumentTypeError if isinstance(value, float) else expected(dtype, value)
            space.store(address, 3, dtype)
            if isinstance(due, np.ndarray):
                wrapped = np.array([3], dtype) + due  # an array's sum wraps around, and so do ours
                assert space.fetch_add(address, value, dtype) == 3
                assert space.exchange(address, value, dtype) == wrapped[0]
                assert space.compare_swap(address, value, value, dtype) == due == space.load(address, dtype)
                continue
            for change, operands in (
                (space.fetch_add, (value,)),
                (space.exchange, (value,)),
                (space.compare_swap, (3, value)),
                (space.compare_swap, (value, 3)),
            ):
                with pytest.raises(due):
                    change(address, *operands, dtype)
            assert space.load(address, dtype) == 3


def own_words(space: umem.Space, name: str) -> Iterator[int]:
    """Address of a word of this rank's own, at its own home and at a neighbour's."""
    for home in sorted({0, space.num_ranks - 1}):
        yield space.shared(f"{name}-{home}", space.num_ranks, "int64", home=home).address_of(space.rank)


def values_are_numpys_or_refused(space):
    for address in own_words(space, "values"):
        each_value_is_stored_or_refused(space, address)
        each_operand_is_used_or_refused(space, address)
    space.barrier()


def other_byte_orders_are_refused_by_scalars_only(space):
    array = space.empty(3, ">i4", home=space.num_ranks - 1)
    array.write([1, 2, 3])
    assert array.read().tolist() == [1, 2, 3] and array.read().dtype == np.dtype(">i4")
    uses = (
        lambda: space.load(array.address, array.dtype),
        lambda: space.store(array.address, 7, ">i4"),
        lambda: space.fetch_add(array.address, 7, ">i4"),
        lambda: space.exchange(array.address, 7, ">i4"),
        lambda: space.compare_swap(array.address, 1, 7, ">i4"),
    )
    refused_each(uses, "byte order")
    assert array.read().tolist() == [1, 2, 3]
    array.free()


RECORD = np.dtype(
    {
        "names": ["id", "when", "at"],
        "formats": ["i4", "M8[us]", ("f4", (2,))],
        "offsets": [4, 16, 8],
        "titles": [None, "the time", None],
        "itemsize": 40,
    }
)
SAMPLES: dict[str, Callable[[], np.ndarray]] = {
    "record": lambda: np.array([(1, "2026-11-30", (1, 2)), (2, "NaT", (3, 4))], RECORD),
    "aligned": lambda: np.array([(1, 2.0), (3, 4.0)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "nested": lambda: np.array([((1, b"ab"),)], [("in", [("x", ">u2"), ("y", "S3")])]),
    "datetime": lambda: np.array(["2026-11-30", "NaT"], "M8[ns]"),
    "timedelta": lambda: np.array([1, -2], "m8[25s]"),
    "bytes": lambda: np.array([b"ab", b""], "S3"),
    "text": lambda: np.array(["äb", ""], "U3"),
    "void": lambda: np.array([b"abc", b"d"], "V5"),
    "complex": lambda: np.array([1 + 2j, np.nan]),
    "bool": lambda: np.array([True, False]),
    "long double": lambda: np.array([0.1, 2], np.longdouble),
    "bfloat16": lambda: np.array([0.1, np.nan], dtype_of("bfloat16")),
}


def is_same(one: np.dtype, other: np.dtype) -> bool:
    """Whether two dtypes agree in all that NumPy prints of them: titles and alignment, too, which == passes over."""
    return one == other and repr(one) == repr(other) and one.isalignedstruct == other.isalignedstruct


def dtypes_travel_whole(space):
    for name, make in SAMPLES.items():
        sample = make()
        array = space.shared(f"dtype {name}", sample.shape, sample.dtype, home=space.num_ranks - 1)
        if space.rank == 0:
            array.write(sample)
            space.publish(f"again {name}", array)
        space.barrier()
        for found in (array, space.find(f"again {name}"), pickle.loads(pickle.dumps(array))):
            assert is_same(found.dtype, sample.dtype), (found.dtype, sample.dtype)
            assert found.shape == sample.shape
            values = found.read()
            assert is_same(values.dtype, sample.dtype) and _bytes(values) == _bytes(sample), (name, values)
        if space.segments.reach.by_cpu(space.num_ranks - 1, Kind.DEVICE):
            assert is_same(array.numpy().dtype, sample.dtype) and _bytes(array.numpy()) == _bytes(sample)
        space.barrier()
    assert space.empty(3, ("i4", (2,))).read().shape == np.empty(3, ("i4", (2,))).shape


def _bytes(values: np.ndarray) -> list[Any]:
    """Values field by field, without what stands between fields."""
    if values.dtype.names:
        return [_bytes(np.ascontiguousarray(values[name])) for name in values.dtype.names]
    if values.dtype == np.longdouble:
        return values.tolist()  # six of its bytes are nothing
    return [values.tobytes()]


def objects_have_no_memory(space):
    array = space.empty(4, "int64", home=space.num_ranks - 1)
    objects = np.array([{}, None, [], ""], object)
    for dtype in (object, "O", [("a", "i4"), ("b", [("c", "O")])], np.dtypes.StringDType()):
        for make in (
            space.empty,
            lambda *asked: space.shared("objects", *asked),
            lambda *asked: umem.Array(space, array.address, *asked),
        ):
            with pytest.raises(ArgumentTypeError, match="objects"):
                make((4,), dtype)
    uses = (
        lambda: space.put(array.address, objects),
        lambda: space.get(objects, array.address),
        lambda: array.write(objects),
    )
    refused_each(uses, "object")
    for dtype in ("V0", np.dtype([]), "nonsense", 3):
        with pytest.raises(ArgumentTypeError):
            space.empty(3, dtype)
    space.barrier()
    array.free()


def arrays_are_written_as_they_fit(space):
    def write(dtype: str, values: Any) -> list[Any]:
        array = space.empty(np.shape(values), dtype, home=space.num_ranks - 1)
        try:
            array.write(values)
            return array.read().tolist()
        finally:
            array.free()

    for dtype in INTEGERS:
        limits = np.iinfo(dtype)
        for fit in ([limits.min, limits.max], np.array([0, limits.max], ">u8"), [True, False], [np.int8(5)]):
            assert write(dtype, fit) == np.asarray(fit, object).tolist(), (dtype, fit)
        for misfit in (
            [limits.max + 1],
            [0, limits.min - 1],
            [1 << 70],
            np.array([limits.min - 1, 0]),
        ):
            with pytest.raises(ArgumentRangeError):
                write(dtype, misfit)
        for misfit in (
            [3.7],
            3.0,
            [float("nan")],
            np.float32([1]),
            [1j],
            ["3"],
            [None],
            np.array([1], "m8[s]"),
        ):
            with pytest.raises(ArgumentTypeError):
                write(dtype, misfit)
    for dtype in FLOATS:
        values = [0.1, 3, -2.5, float("inf")]
        assert write(dtype, values) == np.asarray(values, dtype_of(dtype)).tolist()
        for misfit in ([1j], ["3"], [None]):
            with pytest.raises(ArgumentTypeError):
                write(dtype, misfit)
    assert write("float32", [1 << 70, 0]) == [2.0**70, 0]
    with pytest.raises(ArgumentRangeError):
        write("float64", [10**400])
    assert write("S3", [b"abc"]) == [b"abc"] and write("complex64", [1, 2j]) == [1, 2j]
    assert write("M8[s]", ["2026-11-30"]) == np.array(["2026-11-30"], "M8[s]").tolist()
    for dtype, misfit in (
        ("S3", [b"abcd"]),
        ("U2", ["abc"]),
        ("M8[s]", np.array([1], "M8[ns]")),
        ("bool", [2]),
        ("bool", [1 << 70]),
    ):
        with pytest.raises(ArgumentTypeError):
            write(dtype, misfit)


def is_viewable(space, home: int) -> bool:
    """Whether this rank's CPU maps the device segment of `home`."""
    return space.segments.reach.by_cpu(home, Kind.DEVICE)


def viewable_home(space) -> str:
    """Where a rank's own memory is mapped by its CPU: its device segment, or its host segment where that is a GPU's."""
    return "local" if is_viewable(space, space.rank) else "host"


def torch_names_its_own_dtypes(space):
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.uint8):
        array = space.empty((2, 3), dtype, home=viewable_home(space))
        values = torch.arange(6).reshape(2, 3) / 10 + 1
        array.torch().copy_(values)
        assert array.torch().dtype == dtype and array.torch().data_ptr() == array.address
        assert torch.equal(array.torch(), values.to(dtype))
        for number in (0.1, 1.00390625, 1.01171875, -3e38) if dtype.is_floating_point else (3,):
            space.store(array.address, number, dtype)
            assert space.load(array.address, dtype) == torch.tensor(number, dtype=dtype).item()
        array.free()
    halves = space.empty(3, torch.bfloat16, home=space.num_ranks - 1)
    halves.write(torch.tensor([0.1, -2, 3e38]).bfloat16())
    assert halves.read().tolist() == torch.tensor([0.1, -2, 3e38]).bfloat16().tolist()
    with pytest.raises(ArgumentTypeError, match="torch"):
        space.empty(3, "M8[s]").torch()
    with pytest.raises(ArgumentTypeError, match="torch"):
        space.empty(3, ">i4").torch()


CHECKS = (
    values_are_numpys_or_refused,
    other_byte_orders_are_refused_by_scalars_only,
    dtypes_travel_whole,
    objects_have_no_memory,
    arrays_are_written_as_they_fit,
    torch_names_its_own_dtypes,
)
