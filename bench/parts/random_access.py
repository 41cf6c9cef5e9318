"""Accesses that measure memory itself: dependent loads, sequential reads, contended words.

Each has a C twin in bench/harness/hardware.c, with which it is compared.
"""

from __future__ import annotations

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.intrinsics.scalar import compare_swap_i64, fetch_add_i64, load_i64, load_relaxed_i64
from ...kernels.intrinsics.vector import vec_add_i64, vec_lanes_i64, vec_load_i64, vec_sum_i64, vec_zero_i64


@device_function
def chase(successors, start, num_steps):
    """Index reached from `start` after `num_steps` dependent loads of successors[index]; writes nothing.

    Its time a step is the latency of a load. One lane. Twin: reference.chase; tables: single_cycle there.
    """
    index = start
    step = 0
    while step < num_steps:
        index = load_i64(successors, index)
        step += 1
    return index


@device_function
def sum_words(base, num_words, lane, num_lanes):
    """This lane's part of the sum of int64 words, read in order; writes nothing.

    Lanes: vectors in turn, lane 0 also the words after the last whole vector. Twin: words.sum().
    """
    step = num_lanes * vec_lanes_i64()
    end = num_words // vec_lanes_i64() * vec_lanes_i64()
    a, b, c, d = vec_zero_i64(), vec_zero_i64(), vec_zero_i64(), vec_zero_i64()
    index = lane * vec_lanes_i64()
    while index + 3 * step < end:
        a = vec_add_i64(a, vec_load_i64(base, index))
        b = vec_add_i64(b, vec_load_i64(base, index + step))
        c = vec_add_i64(c, vec_load_i64(base, index + 2 * step))
        d = vec_add_i64(d, vec_load_i64(base, index + 3 * step))
        index += 4 * step
    while index < end:
        a = vec_add_i64(a, vec_load_i64(base, index))
        index += step
    total = vec_sum_i64(vec_add_i64(vec_add_i64(a, b), vec_add_i64(c, d)))
    if lane == 0:
        while end < num_words:
            total += load_i64(base, end)
            end += 1
    return total


@device_function
def count_by_fetch_add(word, num_operations):
    """Add 1 to the int64 at `word`, `num_operations` times, atomically; the last value made here."""
    old = 0
    done = 0
    while done < num_operations:
        old = fetch_add_i64(word, 0, 1)
        done += 1
    return old + 1


@device_function
def count_by_compare_swap(word, num_operations):
    """The same by compare-and-swap, tried again until it succeeds."""
    seen = load_relaxed_i64(word, 0)
    done = 0
    while done < num_operations:
        found = compare_swap_i64(word, 0, seen, seen + 1)
        if found == seen:
            seen += 1
            done += 1
        else:
            seen = found
    return seen


def _cpu_sum_words(base, num_words):
    """`sum_words` by one lane."""
    return sum_words(base, num_words, 0, 1)


cpu_chase = cpu_kernel("int64(int64, int64, int64)")(chase)
cpu_sum_words = cpu_kernel("int64(int64, int64)")(_cpu_sum_words)
cpu_count_by_fetch_add = cpu_kernel("int64(int64, int64)")(count_by_fetch_add)
cpu_count_by_compare_swap = cpu_kernel("int64(int64, int64)")(count_by_compare_swap)
