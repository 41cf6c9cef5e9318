"""Element-wise reductions of any number of sources: sum, product, smallest, largest, average.

Sources are combined from the first to the last, in registers, so every rank that reduces the same sources gets
the same bits. float16 and bfloat16 are combined as float32 and rounded once, at the end. Integers wrap. The smaller
of two is `a if a < b else b`, with the earlier source as `a`: a NaN is kept where it comes last. An average is the
sum in the type that is added in, divided by the number of sources and rounded once; of integers, the sum in 64 bits
and the quotient towards zero.

Accesses are plain. `dst` may be one of the sources; otherwise nothing may overlap. Results of at least
`stream_bytes` go around the caches (copy.py says why), except in place, where the line is there anyway,
and for elements of less than 32 bits.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..build.compile import cpu_kernel, device_function
from ..build.variants import family, group_of
from ..intrinsics import scalar
from ..intrinsics import vector as ops_vector
from ..intrinsics.scalar import load_f32 as load
from ..intrinsics.scalar import load_i64
from ..intrinsics.scalar import store_f32 as store
from ..intrinsics.system import lane_index, num_lanes, stream_fence
from ..intrinsics.vector import vec_add_f32 as vec_combine
from ..intrinsics.vector import vec_div_f32 as vec_div
from ..intrinsics.vector import vec_lanes_f32 as vec_lanes
from ..intrinsics.vector import vec_load_f32 as vec_load
from ..intrinsics.vector import vec_splat_f32 as vec_splat
from ..intrinsics.vector import vec_store_f32 as vec_store
from ..intrinsics.vector import vec_stream_f32 as vec_stream
from .copy import CORE_LINE_BYTES, UNALIGNED_VECTORS

ELEMENT_BYTES = 4
VECTOR_ALIGNMENT = 16  # of vector accesses on CUDA
HAS_VECTORS = 1  # 0 where elements are combined one by one


@device_function
def add(a, b):
    """The sum of two."""
    return a + b


@device_function
def multiply(a, b):
    """The product of two."""
    return a * b


@device_function
def smaller(a, b):
    """The smaller of two."""
    return a if a < b else b


@device_function
def larger(a, b):
    """The larger of two."""
    return a if a > b else b


@device_function
def as_it_is(total, num_sources):
    """What has been combined."""
    return total


@device_function
def divide_float(total, num_sources):
    """The average of `num_sources` with this sum. A float32 is divided as float64, which rounds to the same float32."""
    return total / num_sources


@device_function
def divide_integer(total, num_sources):
    """The average of `num_sources` with this sum, towards zero."""
    return total // num_sources if total >= 0 else -(-total // num_sources)


def divide_vector(total, num_sources):
    """`divide_float`, lane by lane; a template."""
    return vec_div(total, vec_splat(num_sources))


combine, finish, vec_finish = add, as_it_is, as_it_is

# The functions from here to `reduce` are templates, written for sums of float32; `family` makes those of an operation
# and a type.


def put(dst, index, vector, streams):
    """Store a vector, around the caches where `streams`, which is constant in every loop."""
    if streams:
        vec_stream(dst, index, vector)
    else:
        vec_store(dst, index, vector)


def combine_scalars(dst, sources, num_sources, begin, end, lane, num_lanes):
    """Combine elements [begin, end) one by one."""
    index = begin + lane
    while index < end:
        total = load(load_i64(sources, 0), index)
        source = 1
        while source < num_sources:
            total = combine(total, load(load_i64(sources, source), index))
            source += 1
        store(dst, index, finish(total, num_sources))
        index += num_lanes


def combine_two(dst, a, b, begin, end, streams, lane, num_lanes):
    """Combine the whole vectors in [begin, end) of two sources; returns where they end."""
    lanes = vec_lanes()
    end = begin + (end - begin) // lanes * lanes
    index = begin + lane * lanes
    while index < end:
        put(dst, index, vec_finish(vec_combine(vec_load(a, index), vec_load(b, index)), 2), streams)
        index += num_lanes * lanes
    return end


def combine_many(dst, sources, num_sources, begin, end, streams, lane, num_lanes):
    """Combine the whole blocks of four vectors in [begin, end), each in registers; returns where they end."""
    step = num_lanes * vec_lanes()
    end = begin + (end - begin) // (4 * step) * (4 * step)
    index = begin + lane * vec_lanes()
    while index < end:
        base = load_i64(sources, 0)
        a, b = vec_load(base, index), vec_load(base, index + step)
        c, d = vec_load(base, index + 2 * step), vec_load(base, index + 3 * step)
        source = 1
        while source < num_sources:
            base = load_i64(sources, source)
            a = vec_combine(a, vec_load(base, index))
            b = vec_combine(b, vec_load(base, index + step))
            c = vec_combine(c, vec_load(base, index + 2 * step))
            d = vec_combine(d, vec_load(base, index + 3 * step))
            source += 1
        put(dst, index, vec_finish(a, num_sources), streams)
        put(dst, index + step, vec_finish(b, num_sources), streams)
        put(dst, index + 2 * step, vec_finish(c, num_sources), streams)
        put(dst, index + 3 * step, vec_finish(d, num_sources), streams)
        index += 4 * step
    return end


@device_function
def is_source(dst, sources, num_sources):
    """1 where the sum is in place."""
    source = 0
    while source < num_sources:
        if load_i64(sources, source) == dst:
            return 1
        source += 1
    return 0


@device_function
def has_aligned_vectors(dst, sources, num_sources):
    """1 where a vector of `dst` and of every source begins at a multiple of 16 bytes together."""
    source = 0
    while source < num_sources:
        if (load_i64(sources, source) ^ dst) & (VECTOR_ALIGNMENT - 1):
            return 0
        source += 1
    return 1


def reduce(dst, sources, num_sources, num_elements, stream_bytes, lane, num_lanes):
    """dst[i] = sources[0][i], combined with sources[1][i], ..., for `num_elements` elements.

    `sources` is the address of `num_sources` >= 1 addresses (int64), each aligned to its element like
    `dst`. Lanes: vectors in turn. Writes dst only. Twin: reference.reduce.
    """
    streams = num_elements * ELEMENT_BYTES >= stream_bytes and is_source(dst, sources, num_sources) == 0
    # Up to a line boundary of dst, where streamed stores must begin and ordinary ones like to.
    begin = min((-dst & (CORE_LINE_BYTES - 1)) // ELEMENT_BYTES, num_elements)
    if HAS_VECTORS == 0 or (UNALIGNED_VECTORS == 0 and has_aligned_vectors(dst, sources, num_sources) == 0):
        begin = num_elements
    combine_scalars(dst, sources, num_sources, 0, begin, lane, num_lanes)
    if num_sources == 2:
        a, b = load_i64(sources, 0), load_i64(sources, 1)
        end = combine_two(dst, a, b, begin, num_elements, streams, lane, num_lanes)
    else:
        end = combine_many(dst, sources, num_sources, begin, num_elements, streams, lane, num_lanes)
    if streams:
        stream_fence()
    combine_scalars(dst, sources, num_sources, end, num_elements, lane, num_lanes)


def one_lane(dst, sources, num_sources, num_elements, stream_bytes):
    """`reduce` by one lane."""
    reduce(dst, sources, num_sources, num_elements, stream_bytes, 0, 1)


def all_lanes(dst, sources, num_sources, num_elements, stream_bytes):
    """`reduce` by all lanes of a launch."""
    reduce(dst, sources, num_sources, num_elements, stream_bytes, lane_index(), num_lanes())


TEMPLATES = (put, combine_scalars, combine_two, combine_many, reduce, one_lane, all_lanes)
SUM, PRODUCT, MINIMUM, MAXIMUM, AVERAGE = range(5)
OPERATION_NAMES = ("sum", "prod", "min", "max", "avg")
TYPE_BYTES = {"f32": 4, "f64": 8, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "i16": 2}
HALF_TYPES = ("f16", "bf16")  # combined as f32
SHORTEST_STREAMED = 4  # bytes of an element
REDUCE_SIGNATURE = "void(int64, int64, int64, int64, int64)"
_COMBINE = {
    SUM: (add, "add"),
    PRODUCT: (multiply, "mul"),
    MINIMUM: (smaller, "min"),
    MAXIMUM: (larger, "max"),
    AVERAGE: (add, "add"),
}


def forms_of(operation: int, name: str, unaligned_vectors: int) -> SimpleNamespace:
    """The templates for an operation and an element type, by their names."""
    is_half, is_short = name in HALF_TYPES, TYPE_BYTES[name] < SHORTEST_STREAMED
    wide = "f32" if is_half else name
    one, many = _COMBINE[operation]
    suffix = name if operation == SUM else f"{OPERATION_NAMES[operation]}_{name}"
    names: dict[str, Any] = {}
    if operation == AVERAGE and wide[0] == "f":
        divide = family(
            (divide_vector,), wide, vec_div=_vector("div", wide), vec_splat=_vector("splat", wide)
        )
        names = {"finish": divide_float, "vec_finish": divide.divide_vector}
    elif operation == AVERAGE:
        names = {"finish": divide_integer, "HAS_VECTORS": 0}  # the sum has 64 bits
    vec_store = _vector("store_f32" if is_half else "store", name)
    return family(
        TEMPLATES,
        suffix if unaligned_vectors else f"{suffix}_aligned",
        ELEMENT_BYTES=TYPE_BYTES[name],
        UNALIGNED_VECTORS=unaligned_vectors,
        combine=one,
        load=getattr(ops_vector, f"load_{name}_f32") if is_half else getattr(scalar, f"load_{name}"),
        store=getattr(ops_vector, f"store_f32_{name}") if is_half else getattr(scalar, f"store_{name}"),
        vec_load=getattr(ops_vector, f"vec_load_{name}_f32" if is_half else f"vec_load_{name}"),
        vec_store=vec_store,
        vec_stream=vec_store if is_short else _vector("stream", name),
        vec_combine=_vector(many, wide),
        vec_lanes=_vector("lanes", wide),
        **names,
    )


def _vector(operation: str, name: str) -> Any:
    return getattr(ops_vector, f"vec_{operation}_{name}")


SUMMED = ("f32", "f64", "i32", "i64", "f16", "bf16")
_FORMS = {name: forms_of(SUM, name, unaligned_vectors=1) for name in SUMMED}
REDUCE = {name: forms.reduce for name, forms in _FORMS.items()}
CPU_REDUCE = {
    name: cpu_kernel(REDUCE_SIGNATURE, group=group_of(name))(forms.one_lane) for name, forms in _FORMS.items()
}
CUDA_REDUCE = {name: forms_of(SUM, name, unaligned_vectors=0).all_lanes for name in SUMMED}
