"""Litmus tests on raw mapped words: the orders in which two ranks see each other's stores.

Each test is two lanes over many pairs of words. Word i of x and of y stands at i * STRIDE_WORDS, so that
instances do not share a line. A lane stores what it read as one outcome per instance; the histogram over
both lanes' outcomes is the evidence. `x` and `y` live in different segments, roles are permuted by the
caller, and both lanes read every line before the round, so that both start with all of them cached.

| test | lane 0 | lane 1 | forbidden |
|---|---|---|---|
| CoRR | x = 1 | r0 = x; r1 = x | r0 = 1, r1 = 0: a line went back to an older value |
| MP | x = 1; y =release 1 | r0 =acquire y; r1 = x | r0 = 1, r1 = 0: the flag overtook the data |
| SB | x = 1; fence; r0 = y | y = 1; fence; r1 = x | r0 = 0, r1 = 0: both stores came late |

Sources: Alglave, Maranget, Tautschnig, Herding Cats (2014), for the names and shapes.
The tests are plain functions, so that the model target runs the same source; `lane_corr` ... are compiled:
they meet the other lane before every instance, because two lanes that run one after the other show nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...kernels.build.compile import CpuKernel, cpu_kernel, device_function
from ...kernels.intrinsics.scalar import (
    fence_seq_cst,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from ...kernels.status import OK
from .speed_loops import poll_until

STRIDE_WORDS = 16  # 128 bytes: one coherence line of the kernels, two of most processors


@device_function
def corr(x, y, out, lane, first, last):
    """Coherence of read-read: one word, read twice. `out` takes 2 * r0 + r1 of lane 1."""
    i = first
    while i < last:
        if lane == 0:
            store_relaxed_i64(x, i * STRIDE_WORDS, 1)
        else:
            r0 = load_relaxed_i64(x, i * STRIDE_WORDS)
            r1 = load_relaxed_i64(x, i * STRIDE_WORDS)
            store_i64(out, i, 2 * r0 + r1)
        i += 1


@device_function
def mp(x, y, out, lane, first, last):
    """Message passing: data, then a flag. `out` takes 2 * r0 + r1 of lane 1."""
    i = first
    while i < last:
        if lane == 0:
            store_relaxed_i64(x, i * STRIDE_WORDS, 1)
            store_release_i64(y, i * STRIDE_WORDS, 1)
        else:
            r0 = load_acquire_i64(y, i * STRIDE_WORDS)
            r1 = load_relaxed_i64(x, i * STRIDE_WORDS)
            store_i64(out, i, 2 * r0 + r1)
        i += 1


@device_function
def sb(x, y, out, lane, first, last):
    """Store buffering: each stores its own word and reads the other. `out` takes r of the lane that runs."""
    i = first
    while i < last:
        if lane == 0:
            store_relaxed_i64(x, i * STRIDE_WORDS, 1)
            fence_seq_cst()
            store_i64(out, i, load_relaxed_i64(y, i * STRIDE_WORDS))
        else:
            store_relaxed_i64(y, i * STRIDE_WORDS, 1)
            fence_seq_cst()
            store_i64(out, i, load_relaxed_i64(x, i * STRIDE_WORDS))
        i += 1


def warm(x, y, num_instances):
    """Read every word once: this lane's cache then holds every line."""
    total = 0
    i = 0
    while i < num_instances:
        total += load_relaxed_i64(x, i * STRIDE_WORDS) + load_relaxed_i64(y, i * STRIDE_WORDS)
        i += 1
    return total


MAX_DELAY = (
    64  # turns of an empty loop, a few hundred nanoseconds, so that the lanes' steps meet in many orders
)


@device_function
def spin(num_turns):
    """Pass a little time without touching memory that others see; returns a number, so that it is not removed."""
    mixed = num_turns
    turn = 0
    while turn < num_turns:
        mixed = (mixed * 6364136223846793005 + 1442695040888963407) ^ turn
        turn += 1
    return mixed & 1


def _compile(test: Callable[..., None]) -> CpuKernel:
    """The lane of `test`: `mine` and `theirs` count the instances at which the lanes have met, from `met` on."""

    def lane_of(control, mine, theirs, met, delays, x, y, out, lane, num_instances, deadline_ns):
        i = 0
        wasted = 0
        while i < num_instances:
            store_release_i64(mine, 0, met + i + 1)
            code = poll_until(control, theirs, met + i + 1, deadline_ns)
            if code != OK:
                return code
            wasted += spin(load_i64(delays, i))
            test(x, y, out, lane, i, i + 1)
            i += 1
        return OK if wasted >= 0 else 1

    lane_of.__name__ = lane_of.__qualname__ = f"lane_{test.__name__}"
    signature = f"int64({', '.join(['int64'] * 11)})"
    compiled: Any = cpu_kernel(signature)(lane_of)
    return compiled


lane_corr, lane_mp, lane_sb = _compile(corr), _compile(mp), _compile(sb)
warm_lines = cpu_kernel("int64(int64, int64, int64)")(warm)
