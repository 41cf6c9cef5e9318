"""Kernels of scripts/gpu_check.py beside those that umem ships: atomics, a lock, litmus tests whose lanes meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from umem.bench.parts import litmus_lanes
from umem.bench.parts.litmus_lanes import MAX_DELAY, STRIDE_WORDS, spin
from umem.kernels import (
    compare_swap_i64,
    fetch_add_i64,
    lane_index,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    num_lanes,
    pause,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.build.compile import device_function
from umem.kernels.build.variants import variant
from umem.kernels.data.copy import copy_aligned
from umem.kernels.intrinsics.system import prefetch, yield_cpu

SPIN_ROUNDS = 1 << 24  # a broken lock ends the check, not the machine
EAGER_POLLS = 256  # without a pause, which would blur when the lanes meet; then the other may need this core
MEETING_WORDS = 16
COUNT, NOT_GOT = 16, 32  # words of the lock's memory: what it guards, and locks that were not got


@dataclass(frozen=True)
class Kernel:
    """`entry` runs on the GPU, on as many lanes as there are threads."""

    entry: Callable[..., None]
    num_arguments: int


@device_function
def add_many(word, rounds, lane, lanes):
    """Every lane adds 1 to the word `rounds` times."""
    i = 0
    while i < rounds:
        fetch_add_i64(word, 0, 1)
        i += 1


@device_function
def count_under_lock(lock, rounds, lane, lanes):
    """Every lane adds 1 to lock[COUNT] `rounds` times, plainly, while it holds lock[0]."""
    i = 0
    while i < rounds:
        spins = 0
        while spins < SPIN_ROUNDS and compare_swap_i64(lock, 0, 0, lane + 1) != 0:
            pause()
            spins += 1
        if spins < SPIN_ROUNDS:
            store_i64(lock, COUNT, load_i64(lock, COUNT) + 1)
            store_release_i64(lock, 0, 0)
        else:
            fetch_add_i64(lock, NOT_GOT, 1)
        i += 1


@device_function
def meet(mine, theirs, count):
    """Say that this lane has come to instance `count`, and wait for the other; 0 where it does not come."""
    store_release_i64(mine, 0, count)
    polls = 0
    while load_acquire_i64(theirs, 0) < count:
        polls += 1
        if polls > SPIN_ROUNDS:
            return 0
        if polls > EAGER_POLLS:
            yield_cpu()
    return 1


@device_function
def one_instance(x, y, out, lane, first, last):
    """A template: bound to a test of litmus_lanes."""


@device_function
def litmus(x, y, out, meetings, role, num_instances, lane, lanes):
    """A litmus test by pairs of lanes, which meet before every instance and are then a little early or late.

    `num_instances` a pair. Where `role` is negative even lanes have role 0 and odd ones role 1; else all lanes have
    that role, and their partners run elsewhere. `meetings` has a line of MEETING_WORDS for every lane of both roles;
    its second word takes the instances that were run. Outcomes of role 0 stand in `out`, those of role 1 behind.
    """
    pair = lane if role >= 0 else lane >> 1
    pairs = lanes if role >= 0 else lanes >> 1
    mine = role if role >= 0 else lane & 1
    here = meetings + 8 * MEETING_WORDS * (2 * pair + mine)
    there = meetings + 8 * MEETING_WORDS * (2 * pair + 1 - mine)
    outcomes = out + 8 * mine * pairs * num_instances
    i = 0
    wasted = 0
    while i < num_instances and meet(here, there, i + 1):
        wasted += spin(((i * (7 + 6 * mine)) ^ (i >> 3)) & MAX_DELAY - 1)
        instance = pair * num_instances + i
        one_instance(x, y, outcomes, mine, instance, instance + 1)
        i += 1
    store_i64(here, 1, i if wasted >= 0 else 0)


@device_function
def lb(x, y, out, lane, first, last):
    """Load buffering: each reads one word, then stores the other. `out` takes r of the lane that runs."""
    i = first
    while i < last:
        if lane == 0:
            r = load_acquire_i64(x, i * STRIDE_WORDS)
            store_release_i64(y, i * STRIDE_WORDS, 1)
        else:
            r = load_acquire_i64(y, i * STRIDE_WORDS)
            store_release_i64(x, i * STRIDE_WORDS, 1)
        store_i64(out, i, r)
        i += 1


@device_function
def no_fence():
    """None: an ordering that a test leaves out to see that it shows."""


litmus_corr = variant(litmus, "litmus_corr", one_instance=device_function(litmus_lanes.corr))
litmus_mp = variant(litmus, "litmus_mp", one_instance=device_function(litmus_lanes.mp))
litmus_sb = variant(litmus, "litmus_sb", one_instance=device_function(litmus_lanes.sb))
litmus_lb = variant(litmus, "litmus_lb", one_instance=lb)
mp_relaxed = variant(
    litmus_lanes.mp, "mp_relaxed", store_release_i64=store_relaxed_i64, load_acquire_i64=load_relaxed_i64
)
sb_unfenced = variant(litmus_lanes.sb, "sb_unfenced", fence_seq_cst=no_fence)
litmus_mp_relaxed = variant(litmus, "litmus_mp_relaxed", one_instance=mp_relaxed)
litmus_sb_unfenced = variant(litmus, "litmus_sb_unfenced", one_instance=sb_unfenced)


def add_many_entry(word, rounds):
    add_many(word, rounds, lane_index(), num_lanes())


def count_under_lock_entry(lock, rounds):
    count_under_lock(lock, rounds, lane_index(), num_lanes())


def corr_entry(x, y, out, meetings, role, num_instances):
    litmus_corr(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def mp_entry(x, y, out, meetings, role, num_instances):
    litmus_mp(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def sb_entry(x, y, out, meetings, role, num_instances):
    litmus_sb(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def lb_entry(x, y, out, meetings, role, num_instances):
    litmus_lb(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def mp_relaxed_entry(x, y, out, meetings, role, num_instances):
    litmus_mp_relaxed(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def sb_unfenced_entry(x, y, out, meetings, role, num_instances):
    litmus_sb_unfenced(x, y, out, meetings, role, num_instances, lane_index(), num_lanes())


def copy_entry(dst, src, num_bytes, stream_bytes):
    copy_aligned(dst, src, num_bytes, stream_bytes, lane_index(), num_lanes())


def prefetch_entry(address):
    prefetch(address)


@dataclass(frozen=True)
class Litmus:
    """A litmus test: its kernel, the same lanes for the CPU, and the end that must not be, 2 * r0 + r1.

    Where it `is_of_both`, role 0 reads r0 and role 1 r1; else role 1 reads both.
    """

    kernel: Kernel
    lanes: Callable[..., None]
    forbidden: int
    is_of_both: bool = False


ADD = Kernel(add_many_entry, 2)
LOCK = Kernel(count_under_lock_entry, 2)
COPY = Kernel(copy_entry, 4)
PREFETCH = Kernel(prefetch_entry, 1)
LITMUS = {
    "CoRR": Litmus(Kernel(corr_entry, 6), litmus_corr, forbidden=2),  # a word went back
    "MP": Litmus(Kernel(mp_entry, 6), litmus_mp, forbidden=2),  # the flag overtook the data
    "SB": Litmus(Kernel(sb_entry, 6), litmus_sb, forbidden=0, is_of_both=True),  # both stores came late
    "LB": Litmus(Kernel(lb_entry, 6), litmus_lb, forbidden=3, is_of_both=True),  # each read what came later
}
# The same without what orders them: their forbidden ends are to be seen, or the others prove nothing.
UNORDERED = {
    "MP relaxed": Litmus(Kernel(mp_relaxed_entry, 6), litmus_mp_relaxed, forbidden=2),
    "SB unfenced": Litmus(Kernel(sb_unfenced_entry, 6), litmus_sb_unfenced, forbidden=0, is_of_both=True),
}
