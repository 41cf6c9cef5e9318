"""Vector intrinsics: one kernel source, the same bytes with vectors and, in plain Python, with one lane."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.kernel_memory import Buffer
from umem.kernels import cpu_kernel
from umem.kernels.intrinsics import scalar
from umem.kernels.intrinsics import vector as ops_vector
from umem.kernels.intrinsics.lower_vector import cpu_register_bytes
from umem.kernels.intrinsics.scalar import load_i64, store_i64
from umem.kernels.intrinsics.table import TABLE, Intrinsic

WHOLE = {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64"}  # have every operation
NUMPY = {**WHOLE, "i8": "int8", "u8": "uint8", "i16": "int16"}
NUM_ELEMENTS = 64
BINARY = [
    row
    for row in TABLE.values()
    if row.result.startswith("vec_") and row.operands == (row.result, row.result)
]
SHIFTS = [row for row in TABLE.values() if row.operation in ("vec_shift_left", "vec_shift_right")]
NARROW_LOADS = ["f16", "bf16", "i8", "u8"]
NARROW_STORES = ["f16", "bf16"]


def vector(name: str, element: str) -> Any:
    return getattr(ops_vector, f"vec_{name}_{element}")


def elementwise(row: Intrinsic, element: str) -> Callable[..., None]:
    """dst[i] = row(a[i], b[i]), as many lanes at a time as the target has."""
    operation, lanes = row.function, vector("lanes", element)
    load, store = vector("load", element), vector("store", element)

    def body(dst, a, b, num_elements):
        i = 0
        while i + lanes() <= num_elements:
            store(dst, i, operation(load(a, i), load(b, i)))
            i += lanes()

    return body


def operands(element: str, seed: int) -> np.ndarray:
    """Values at the ends of the range first, then random ones."""
    random = np.random.default_rng(seed)
    kind = np.dtype(NUMPY[element])
    if kind.kind in "iu":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        ends = [0, 1, high - 1, low, high]
        data = random.integers(low, high, NUM_ELEMENTS, dtype=kind, endpoint=True)
    else:
        ends = [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(kind).max, np.finfo(kind).smallest_subnormal]
        scales = 10.0 ** random.integers(-20, 20, NUM_ELEMENTS)
        data = (random.standard_normal(NUM_ELEMENTS) * scales).astype(kind)
    data[: len(ends)] = random.permutation(np.array(ends, kind))
    return data


def run(body: Callable[..., None], signature: str, arrays: list[np.ndarray], *scalars: int) -> np.ndarray:
    """The first array after the compiled kernel, checked against plain Python on the same memory."""
    results = []
    for function in (cpu_kernel(signature)(body), body):
        copies = [array.copy() for array in arrays]
        function(*[copy.ctypes.data for copy in copies], *scalars)
        results.append(copies[0])
    np.testing.assert_array_equal(results[0], results[1])  # all NaN are equal here
    if arrays[0].dtype.kind == "f":
        number = ~np.isnan(results[0])
        np.testing.assert_array_equal(np.signbit(results[0])[number], np.signbit(results[1])[number])
    return results[0]


@pytest.mark.parametrize("row", BINARY, ids=lambda row: row.name)
def test_lane_by_lane_operations(row: Intrinsic) -> None:
    assert row.element is not None
    element = row.element.name
    a, b = operands(element, 1), operands(element, 2)
    arrays = [np.zeros_like(a), a, b]
    got = run(elementwise(row, element), "void(int64, int64, int64, int64)", arrays, NUM_ELEMENTS)
    reference: dict[str, Callable[..., np.ndarray]] = {
        "vec_add": np.add,
        "vec_sub": np.subtract,
        "vec_mul": np.multiply,
        "vec_div": np.divide,
        "vec_min": lambda x, y: np.where(x < y, x, y),
        "vec_max": lambda x, y: np.where(x > y, x, y),
        "vec_and": np.bitwise_and,
        "vec_or": np.bitwise_or,
        "vec_xor": np.bitwise_xor,
    }
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, reference[row.operation](a, b))


@pytest.mark.parametrize("element", ["f32", "f64"])
def test_fma_rounds_once(element: str) -> None:
    fma, lanes = vector("fma", element), vector("lanes", element)
    load, store = vector("load", element), vector("store", element)

    def body(dst, a, b, c, num_elements):
        i = 0
        while i + lanes() <= num_elements:
            store(dst, i, fma(load(a, i), load(b, i), load(c, i)))
            i += lanes()

    a, b = operands(element, 3), operands(element, 4)
    with np.errstate(all="ignore"):
        c = -(a * b)  # what is left is the rounding error of the product: 0 if it rounds twice
        got = run(body, "void(int64, int64, int64, int64, int64)", [np.zeros_like(a), a, b, c], NUM_ELEMENTS)
        assert (got[np.isfinite(got)] != 0).sum() > NUM_ELEMENTS // 2


@pytest.mark.parametrize("row", SHIFTS, ids=lambda row: row.name)
def test_shifts_fill_with_zeros(row: Intrinsic) -> None:
    assert row.element is not None
    element = row.element.name
    shift, lanes = row.function, vector("lanes", element)
    load, store = vector("load", element), vector("store", element)

    def body(dst, a, count, num_elements):
        i = 0
        while i + lanes() <= num_elements:
            store(dst, i, shift(load(a, i), count))
            i += lanes()

    a = operands(element, 5)
    unsigned = a.view(f"uint{8 * a.itemsize}")
    for count in (0, 1, 8 * a.itemsize - 1):
        got = run(body, "void(int64, int64, int64, int64)", [np.zeros_like(a), a], count, NUM_ELEMENTS)
        wanted = unsigned << count if row.operation == "vec_shift_left" else unsigned >> count
        np.testing.assert_array_equal(got, wanted.view(a.dtype))


def test_equal_lanes_are_bits() -> None:
    lanes, load, equal = ops_vector.vec_lanes_i64, ops_vector.vec_load_relaxed_i64, ops_vector.vec_equal_i64
    add, splat, indices = ops_vector.vec_add_i64, ops_vector.vec_splat_i64, ops_vector.vec_indices_i64

    def body(dst, a, b, num_elements):
        """A bit an element: where a[i] is b[i], and then where it is i."""
        i = 0
        while i < num_elements:
            numbers = add(splat(i), indices())
            same, in_order = equal(load(a, i), load(b, i)), equal(load(a, i), numbers)
            store_i64(dst, 0, load_i64(dst, 0) | same << i)
            store_i64(dst, 1, load_i64(dst, 1) | in_order << i)
            i += lanes()

    random = np.random.default_rng(11)
    # Aligned as the processor's lines are: what the relaxed load of a vector asks for.
    room = np.zeros(2 * NUM_ELEMENTS + 8, np.int64)
    at = -room.ctypes.data // 8 % 8
    a, b = room[at : at + NUM_ELEMENTS], room[at + NUM_ELEMENTS : at + 2 * NUM_ELEMENTS]
    a[:], b[:] = np.arange(NUM_ELEMENTS), np.arange(NUM_ELEMENTS)
    changed_a, changed_b = random.permutation(NUM_ELEMENTS)[:20], random.permutation(NUM_ELEMENTS)[:20]
    a[changed_a] ^= 1 << random.integers(0, 63, 20)
    b[changed_b] = -1 - b[changed_b]
    wanted = [(a == b), (a == np.arange(NUM_ELEMENTS))]
    assert all(0 < bits.sum() < NUM_ELEMENTS for bits in wanted)
    for function in (cpu_kernel("void(int64, int64, int64, int64)")(body), body):
        found = np.zeros(2, np.int64)
        function(found.ctypes.data, a.ctypes.data, b.ctypes.data, NUM_ELEMENTS)
        for word, bits in zip(found.view(np.uint64).tolist(), wanted, strict=True):
            assert [bool(word >> i & 1) for i in range(NUM_ELEMENTS)] == bits.tolist()


@pytest.mark.parametrize("element", list(WHOLE))
def test_splat_zero_and_sum(element: str) -> None:
    lanes, load, store = vector("lanes", element), vector("load", element), vector("store", element)
    splat, zero, add, total = (vector(name, element) for name in ("splat", "zero", "add", "sum"))
    store_scalar = getattr(scalar, f"store_{element}")

    def body(dst, a, value, num_elements):
        sums = zero()
        i = 0
        while i + lanes() <= num_elements:
            store(dst, i, splat(value))
            sums = add(sums, load(a, i))
            i += lanes()
        store_scalar(dst, 0, total(sums))

    a = np.arange(NUM_ELEMENTS).astype(NUMPY[element])  # sums of small integers are exact in any order
    got = run(body, "void(int64, int64, int64, int64)", [np.zeros_like(a), a], 7, NUM_ELEMENTS)
    assert got[0] == a.sum()
    assert (got[1:] == 7).all()


@pytest.mark.parametrize("element", list(WHOLE))
def test_a_vector_fills_a_register(element: str) -> None:
    lanes = vector("lanes", element)

    @cpu_kernel("int64()")
    def width():
        return lanes()

    assert width() * np.dtype(NUMPY[element]).itemsize == cpu_register_bytes()
    assert lanes() == 1  # plain Python


@pytest.mark.parametrize("element", list(WHOLE))
def test_loads_and_stores_take_any_address(element: str) -> None:
    load, store, lanes = vector("load", element), vector("store", element), vector("lanes", element)

    def body(dst, src):
        store(dst, 1, load(src, 1))
        return lanes()

    kernel = cpu_kernel("int64(int64, int64)")(body)
    size = np.dtype(NUMPY[element]).itemsize
    source, target = Buffer(512), Buffer(512)
    content = np.random.default_rng(6).integers(0, 256, 512, dtype=np.uint8).tobytes()
    source.write(content)
    for offset in range(9):
        target.write(bytes(512))
        num_bytes = size * kernel(target.address + offset, source.address + 3 * offset)
        first = offset + size
        wanted = content[3 * offset + size :][:num_bytes]
        assert target.read()[first : first + num_bytes] == wanted
        assert not any(target.read()[:first]) and not any(target.read()[first + num_bytes :])


@pytest.mark.parametrize("element", list(WHOLE))
def test_streamed_stores_arrive(element: str) -> None:
    load, stream, lanes = vector("load", element), vector("stream", element), vector("lanes", element)
    fence = TABLE["stream_fence"].function

    def body(dst, src, num_elements):
        i = 0
        while i + lanes() <= num_elements:
            stream(dst, i, load(src, i))
            i += lanes()
        fence()

    source, target = Buffer(1024), Buffer(1024)
    source.write(np.random.default_rng(7).integers(0, 256, 1024, dtype=np.uint8).tobytes())
    for function in (cpu_kernel("void(int64, int64, int64)")(body), body):
        target.write(bytes(1024))
        function(target.address, source.address, 1024 // np.dtype(NUMPY[element]).itemsize)
        assert target.read() == source.read()


def narrow_reference(name: str, raw: np.ndarray) -> np.ndarray:
    """NumPy's value of every bit pattern of a narrow format."""
    if name == "bf16":
        return (raw.astype("uint32") << 16).view("float32")
    return raw.view({"f16": "float16", "i8": "int8", "u8": "uint8"}[name]).astype("float32")


@pytest.mark.parametrize("prefix", ["", "vec_"])
@pytest.mark.parametrize("name", NARROW_LOADS)
def test_every_narrow_bit_pattern_widens_exactly(name: str, prefix: str) -> None:
    load = getattr(ops_vector, f"{prefix}load_{name}_f32")
    store = getattr(scalar if prefix == "" else ops_vector, f"{prefix}store_f32")
    lanes = ops_vector.vec_lanes_f32
    is_vector = prefix != ""

    def body(dst, src, num_elements):
        i = 0
        step = lanes() if is_vector else 1
        while i + step <= num_elements:
            store(dst, i, load(src, i))
            i += step

    raw = np.arange(65536, dtype="uint16") if name in ("f16", "bf16") else np.arange(256, dtype="uint8")
    got = run(body, "void(int64, int64, int64)", [np.zeros(raw.size, "float32"), raw], raw.size)
    np.testing.assert_array_equal(got, narrow_reference(name, raw))


def round_to_bf16(values: np.ndarray) -> np.ndarray:
    """Nearest even by arithmetic on doubles, apart from the kernels' integer method."""
    exact = values.astype("float64")
    _, exponent = np.frexp(exact)
    unit = np.ldexp(1.0, np.maximum(exponent, -125) - 8)  # 8 bits of significand; subnormals share one unit
    rounded = np.round(exact / unit) * unit
    with np.errstate(over="ignore"):
        single = np.where(np.isfinite(exact), rounded, exact).astype("float32")
    return (single.view("uint32") >> 16).astype("uint16")


@pytest.mark.parametrize("prefix", ["", "vec_"])
@pytest.mark.parametrize("name", NARROW_STORES)
def test_narrow_stores_round_to_nearest_even(name: str, prefix: str) -> None:
    store = getattr(ops_vector, f"{prefix}store_f32_{name}")
    load = getattr(scalar if prefix == "" else ops_vector, f"{prefix}load_f32")
    is_vector = prefix != ""
    lanes = ops_vector.vec_lanes_f32

    def body(dst, src, num_elements):
        i = 0
        step = lanes() if is_vector else 1
        while i + step <= num_elements:
            store(dst, i, load(src, i))
            i += step

    random = np.random.default_rng(8)
    bits = random.integers(0, 1 << 32, 8192, dtype=np.uint32)
    bits[:4096] = (bits[:4096] & 0xFFFF0000) | 0x8000  # ties of bfloat16
    bits[4096:6144] = (bits[4096:6144] & 0x83FFE000) + 0x38001000  # ties of half, in its range
    bits[6144:6150] = np.array([0, 0x80000000, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000], "uint32")
    source = bits.view("float32")
    source = source[~np.isnan(source)]
    source = source[: source.size // 64 * 64].copy()
    got = run(body, "void(int64, int64, int64)", [np.zeros(source.size, "uint16"), source], source.size)
    with np.errstate(over="ignore"):
        wanted = source.astype("float16").view("uint16") if name == "f16" else round_to_bf16(source)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", NARROW_STORES)
def test_a_nan_stays_a_nan_in_narrow_formats(name: str) -> None:
    store = getattr(ops_vector, f"store_f32_{name}")

    def body(dst, value):
        store(dst, 0, value)

    for function in (cpu_kernel("void(int64, float32)")(body), body):
        for bits in (0x7F800001, 0xFFC00000, 0x7FFFFFFF):
            value = np.array([bits], "uint32").view("float32")[0]
            out = np.zeros(1, "uint16")
            function(out.ctypes.data, float(value))
            assert np.isnan(narrow_reference(name, out)[0])


OLD_CPU = """
import numpy as np
from umem.kernels import cpu_kernel, load_f32, store_f32, vec_load_f16_f32, vec_load_f32, vec_store_f32
from umem.kernels import load_f16_f32, store_f32_f16, vec_lanes_f32, vec_store_f32_f16

@cpu_kernel("int64(int64, int64, int64, int64)")
def round_trip(wide, narrow, scalars, num_elements):
    i = 0
    while i < num_elements:
        vec_store_f32(wide, i, vec_load_f16_f32(narrow, i))
        vec_store_f32_f16(scalars, i, vec_load_f32(wide, i))
        i += vec_lanes_f32()
    return vec_lanes_f32()

@cpu_kernel("void(int64, int64, int64)")
def round_all(narrow, wide, num_elements):
    i = 0
    while i < num_elements:
        store_f32_f16(narrow, i, load_f32(wide, i))
        i += 1

raw = np.arange(65536, dtype="uint16")
wide, back = np.zeros(65536, "float32"), np.zeros(65536, "uint16")
assert round_trip(wide.ctypes.data, raw.ctypes.data, back.ctypes.data, 65536) == 4
np.testing.assert_array_equal(wide, raw.view("float16").astype("float32"))
number = ~np.isnan(wide)
np.testing.assert_array_equal(back[number], raw[number])
assert np.isnan(back[~number].view("float16")).all()

bits = np.random.default_rng(9).integers(0, 1 << 32, 65536, dtype=np.uint32)
bits[:30000] = (bits[:30000] & 0x83FFE000) + 0x38001000  # ties in the range of half
bits[30000:60000] = (bits[30000:60000] & 0x81FFFFFF) + 0x32800000  # subnormal halves
source = bits.view("float32")
round_all(back.ctypes.data, source.ctypes.data, 65536)
number = ~np.isnan(source)
with np.errstate(over="ignore"):
    np.testing.assert_array_equal(back[number], source[number].astype("float16").view("uint16"))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86-64 processor")
def test_a_cpu_without_half_instructions_gives_the_same_bytes(run_python: Callable[..., Any]) -> None:
    run_python(OLD_CPU, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
