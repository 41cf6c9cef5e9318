"""Copies of memory that others access: `copy_out` to the caller's own, `copy_in` from it, `copy_line` between two such.

No aligned word of the shared side is torn, and each is as one access: what `copy_out` reads is acquired, what
`copy_in` stores is released. Neither side need be aligned on the CPU; on CUDA both must be multiples of 16.
"""

from __future__ import annotations

from ..build.compile import device_function, inlined_function
from ..build.variants import family
from ..intrinsics.scalar import (
    fence_acquire,
    fence_release,
    load_i64,
    load_relaxed_i64,
    load_relaxed_u8,
    load_relaxed_u16,
    load_relaxed_u32,
    load_u8,
    load_u16,
    load_u32,
    store_i64,
    store_relaxed_i64,
    store_relaxed_u8,
    store_relaxed_u16,
    store_relaxed_u32,
    store_u8,
    store_u16,
    store_u32,
)
from ..intrinsics.vector import (
    vec_lanes_i64,
    vec_load_i64,
    vec_load_relaxed_i64,
    vec_store_i64,
    vec_store_relaxed_i64,
)

WORD_BYTES = 8

# --- templates: bound to plain accesses on one side and to relaxed ones on the other

load_vector, store_vector = vec_load_relaxed_i64, vec_store_i64
load_8, store_8 = load_relaxed_i64, store_i64
load_4, store_4 = load_relaxed_u32, store_u32
load_2, store_2 = load_relaxed_u16, store_u16
load_1, store_1 = load_relaxed_u8, store_u8


@inlined_function
def copy_aligned(dst, src, num_bytes):
    """Copy a multiple of 8 bytes, the shared side aligned to 8, by vectors, then words."""
    step = vec_lanes_i64() * WORD_BYTES
    done = 0
    while done + 4 * step <= num_bytes:
        first = load_vector(src + done, 0)
        second = load_vector(src + done + step, 0)
        third = load_vector(src + done + 2 * step, 0)
        fourth = load_vector(src + done + 3 * step, 0)
        store_vector(dst + done, 0, first)
        store_vector(dst + done + step, 0, second)
        store_vector(dst + done + 2 * step, 0, third)
        store_vector(dst + done + 3 * step, 0, fourth)
        done += 4 * step
    while done + step <= num_bytes:
        store_vector(dst + done, 0, load_vector(src + done, 0))
        done += step
    while done < num_bytes:
        store_8(dst + done, 0, load_8(src + done, 0))
        done += WORD_BYTES


@device_function
def copy_ragged(dst, src, num_bytes, shared):
    """Copy any bytes: elements of 1, 2 and 4 bytes before the words of `shared`, `dst` or `src`, and behind them."""
    done = 0
    if shared & 1 and num_bytes > 0:
        store_1(dst, 0, load_1(src, 0))
        done = 1
    if (shared + done) & 2 and done + 2 <= num_bytes:
        store_2(dst + done, 0, load_2(src + done, 0))
        done += 2
    if (shared + done) & 4 and done + 4 <= num_bytes:
        store_4(dst + done, 0, load_4(src + done, 0))
        done += 4
    middle = (num_bytes - done) & -WORD_BYTES
    copy_aligned(dst + done, src + done, middle)
    done += middle
    if done + 4 <= num_bytes:
        store_4(dst + done, 0, load_4(src + done, 0))
        done += 4
    if done + 2 <= num_bytes:
        store_2(dst + done, 0, load_2(src + done, 0))
        done += 2
    if done < num_bytes:
        store_1(dst + done, 0, load_1(src + done, 0))


@inlined_function
def copy_out(dst, src, num_bytes):
    """Copy `num_bytes` that others may store to meanwhile from `src` to one's own `dst`."""
    if (src | num_bytes) & (WORD_BYTES - 1) != 0:
        copy_ragged(dst, src, num_bytes, src)
    else:
        copy_aligned(dst, src, num_bytes)
    fence_acquire()


@inlined_function
def copy_in(dst, src, num_bytes):
    """Copy `num_bytes` of one's own `src` to `dst`, which others may load meanwhile."""
    fence_release()
    if (dst | num_bytes) & (WORD_BYTES - 1) != 0:
        copy_ragged(dst, src, num_bytes, dst)
    else:
        copy_aligned(dst, src, num_bytes)


@inlined_function
def copy_line(dst, src, num_bytes):
    """Copy a line that others may load meanwhile. A reader that loads a new word of it then finds the new tag."""
    fence_release()
    copy_aligned(dst, src, num_bytes)
    fence_acquire()


copy_line = family(
    (copy_aligned, copy_line), "between", store_vector=vec_store_relaxed_i64, store_8=store_relaxed_i64
).copy_line
copy_out = family((copy_aligned, copy_ragged, copy_out), "out").copy_out
copy_in = family(
    (copy_aligned, copy_ragged, copy_in),
    "in",
    load_vector=vec_load_i64,
    store_vector=vec_store_relaxed_i64,
    load_8=load_i64,
    store_8=store_relaxed_i64,
    load_4=load_u32,
    store_4=store_relaxed_u32,
    load_2=load_u16,
    store_2=store_relaxed_u16,
    load_1=load_u8,
    store_1=store_relaxed_u8,
).copy_in
