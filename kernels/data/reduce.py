"""Element-wise sums of any number of sources, the inner loop of every reduction.

Sources are added from the first to the last, in registers, so every rank that adds the same sources gets
the same bits. float16 and bfloat16 are added as float32 and rounded once, at the end. Integers wrap.

Accesses are plain. `dst` may be one of the sources; otherwise nothing may overlap. Results of at least
`stream_bytes` go around the caches (copy.py says why), except in place, where the line is there anyway,
and for 16-bit elements, which fill half a register.
"""

from __future__ import annotations

from types import SimpleNamespace

from ..build.compile import cpu_kernel, device_function
from ..build.variants import family, group_of
from ..intrinsics import scalar
from ..intrinsics import vector as ops_vector
from ..intrinsics.scalar import load_f32 as load
from ..intrinsics.scalar import load_i64
from ..intrinsics.scalar import store_f32 as store
from ..intrinsics.system import lane_index, num_lanes, stream_fence
from ..intrinsics.vector import vec_add_f32 as vec_add
from ..intrinsics.vector import vec_lanes_f32 as vec_lanes
from ..intrinsics.vector import vec_load_f32 as vec_load
from ..intrinsics.vector import vec_store_f32 as vec_store
from ..intrinsics.vector import vec_stream_f32 as vec_stream
from .copy import CORE_LINE_BYTES, UNALIGNED_VECTORS

ELEMENT_BYTES = 4
VECTOR_ALIGNMENT = 16  # of vector accesses on CUDA

# The functions from here to `reduce` are templates, written with float32; `family` makes those of a type.


def put(dst, index, vector, streams):
    """Store a vector, around the caches where `streams`, which is constant in every loop."""
    if streams:
        vec_stream(dst, index, vector)
    else:
        vec_store(dst, index, vector)


def sum_scalars(dst, sources, num_sources, begin, end, lane, num_lanes):
    """Sum elements [begin, end) one by one."""
    index = begin + lane
    while index < end:
        total = load(load_i64(sources, 0), index)
        source = 1
        while source < num_sources:
            total += load(load_i64(sources, source), index)
            source += 1
        store(dst, index, total)
        index += num_lanes


def sum_two(dst, a, b, begin, end, streams, lane, num_lanes):
    """Sum the whole vectors in [begin, end) of two sources; returns where they end."""
    lanes = vec_lanes()
    end = begin + (end - begin) // lanes * lanes
    index = begin + lane * lanes
    while index < end:
        put(dst, index, vec_add(vec_load(a, index), vec_load(b, index)), streams)
        index += num_lanes * lanes
    return end


def sum_many(dst, sources, num_sources, begin, end, streams, lane, num_lanes):
    """Sum the whole blocks of four vectors in [begin, end), each in registers; returns where they end."""
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
            a = vec_add(a, vec_load(base, index))
            b = vec_add(b, vec_load(base, index + step))
            c = vec_add(c, vec_load(base, index + 2 * step))
            d = vec_add(d, vec_load(base, index + 3 * step))
            source += 1
        put(dst, index, a, streams)
        put(dst, index + step, b, streams)
        put(dst, index + 2 * step, c, streams)
        put(dst, index + 3 * step, d, streams)
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
    """dst[i] = sources[0][i] + sources[1][i] + ..., for `num_elements` elements.

    `sources` is the address of `num_sources` >= 1 addresses (int64), each aligned to its element like
    `dst`. Lanes: vectors in turn. Writes dst only. Twin: reference.reduce.
    """
    streams = num_elements * ELEMENT_BYTES >= stream_bytes and is_source(dst, sources, num_sources) == 0
    # Up to a line boundary of dst, where streamed stores must begin and ordinary ones like to.
    begin = min((-dst & (CORE_LINE_BYTES - 1)) // ELEMENT_BYTES, num_elements)
    if UNALIGNED_VECTORS == 0 and has_aligned_vectors(dst, sources, num_sources) == 0:
        begin = num_elements
    sum_scalars(dst, sources, num_sources, 0, begin, lane, num_lanes)
    if num_sources == 2:
        a, b = load_i64(sources, 0), load_i64(sources, 1)
        end = sum_two(dst, a, b, begin, num_elements, streams, lane, num_lanes)
    else:
        end = sum_many(dst, sources, num_sources, begin, num_elements, streams, lane, num_lanes)
    if streams:
        stream_fence()
    sum_scalars(dst, sources, num_sources, end, num_elements, lane, num_lanes)


def one_lane(dst, sources, num_sources, num_elements, stream_bytes):
    """`reduce` by one lane."""
    reduce(dst, sources, num_sources, num_elements, stream_bytes, 0, 1)


def all_lanes(dst, sources, num_sources, num_elements, stream_bytes):
    """`reduce` by all lanes of a launch."""
    reduce(dst, sources, num_sources, num_elements, stream_bytes, lane_index(), num_lanes())


TEMPLATES = (put, sum_scalars, sum_two, sum_many, reduce, one_lane, all_lanes)
TYPE_BYTES = {"f32": 4, "f64": 8, "i32": 4, "i64": 8, "f16": 2, "bf16": 2}


def _of_type(name: str, unaligned_vectors: int) -> SimpleNamespace:
    """The templates for one element type."""
    half = name in ("f16", "bf16")
    wide = "f32" if half else name
    return family(
        TEMPLATES,
        name if unaligned_vectors else f"{name}_aligned",
        ELEMENT_BYTES=TYPE_BYTES[name],
        UNALIGNED_VECTORS=unaligned_vectors,
        load=getattr(ops_vector, f"load_{name}_f32") if half else getattr(scalar, f"load_{name}"),
        store=getattr(ops_vector, f"store_f32_{name}") if half else getattr(scalar, f"store_{name}"),
        vec_load=getattr(ops_vector, f"vec_load_{name}_f32" if half else f"vec_load_{name}"),
        vec_store=getattr(ops_vector, f"vec_store_f32_{name}" if half else f"vec_store_{name}"),
        vec_stream=getattr(ops_vector, f"vec_store_f32_{name}" if half else f"vec_stream_{name}"),
        vec_add=getattr(ops_vector, f"vec_add_{wide}"),
        vec_lanes=getattr(ops_vector, f"vec_lanes_{wide}"),
    )


_FORMS = {name: _of_type(name, unaligned_vectors=1) for name in TYPE_BYTES}
REDUCE_SIGNATURE = "void(int64, int64, int64, int64, int64)"
REDUCE = {name: forms.reduce for name, forms in _FORMS.items()}
CPU_REDUCE = {
    name: cpu_kernel(REDUCE_SIGNATURE, group=group_of(name))(forms.one_lane) for name, forms in _FORMS.items()
}
CUDA_REDUCE = {name: _of_type(name, unaligned_vectors=0).all_lanes for name in TYPE_BYTES}
