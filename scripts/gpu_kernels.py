"""Kernels of scripts/gpu_check.py beside those that umem ships: atomics, a lock, litmus tests whose lanes meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from umem.bench.parts import litmus_lanes
from umem.bench.parts.litmus_lanes import MAX_DELAY, spin
from umem.kernels import (
    compare_swap_i64,
    fetch_add_i64,
    lane_index,
    load_acquire_i64,
    load_i64,
    num_lanes,
    pause,
    store_i64,
    store_release_i64,
)
from umem.kernels.build.compile import device_function
from umem.kernels.build.variants import variant
from umem.kernels.data.copy import copy_aligned
from umem.kernels.intrinsics.system import yield_cpu

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


litmus_corr = variant(litmus, "litmus_corr", one_instance=device_function(litmus_lanes.corr))
litmus_mp = variant(litmus, "litmus_mp", one_instance=device_function(litmus_lanes.mp))
litmus_sb = variant(litmus, "litmus_sb", one_instance=device_function(litmus_lanes.sb))


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


def copy_entry(dst, src, num_bytes, stream_bytes):
    copy_aligned(dst, src, num_bytes, stream_bytes, lane_index(), num_lanes())


@dataclass(frozen=True)
class Litmus:
    """A litmus test: its kernel, the same lanes for the CPU, and the end that must not be, 2 * r0 + r1."""

    kernel: Kernel
    lanes: Callable[..., None]
    forbidden: int


ADD = Kernel(add_many_entry, 2)
LOCK = Kernel(count_under_lock_entry, 2)
COPY = Kernel(copy_entry, 4)
LITMUS = {
    "CoRR": Litmus(Kernel(corr_entry, 6), litmus_corr, forbidden=2),  # a word went back
    "MP": Litmus(Kernel(mp_entry, 6), litmus_mp, forbidden=2),  # the flag overtook the data
    "SB": Litmus(Kernel(sb_entry, 6), litmus_sb, forbidden=0),  # both stores came late
}
