"""What combines the members' inputs: a function for each operation and element type, compiled when asked for."""

from __future__ import annotations

from functools import cache

from ..build.compile import CCallback, c_callback
from ..build.variants import ON_DEMAND
from ..data.reduce import forms_of
from ..intrinsics.scalar import load_i64

SHAPE_SOURCES, SHAPE_ELEMENTS, SHAPE_STREAM_BYTES = 0, 1, 2


@cache
def reduction(operation: int, element: str) -> CCallback:
    """int64(dst, sources, shape): `reduce` with the sizes in `shape`, the words SHAPE_*."""
    reduce = forms_of(operation, element, unaligned_vectors=1).one_lane

    def combine(dst, sources, shape):
        num_sources, num_elements = load_i64(shape, SHAPE_SOURCES), load_i64(shape, SHAPE_ELEMENTS)
        reduce(dst, sources, num_sources, num_elements, load_i64(shape, SHAPE_STREAM_BYTES))
        return 0

    return c_callback("int64(int64, int64, int64)", group=ON_DEMAND)(combine)
