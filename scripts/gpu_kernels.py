"""Kernels of scripts/gpu_check.py beside those that umem ships: atomics, a lock, litmus roles by lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from umem.bench.parts import litmus_lanes
from umem.kernels import (
    compare_swap_i64,
    fetch_add_i64,
    lane_index,
    load_i64,
    num_lanes,
    pause,
    store_i64,
    store_release_i64,
)
from umem.kernels.build.compile import device_function
from umem.kernels.data.copy import copy_aligned

SPIN_ROUNDS = 1 << 24  # a broken lock ends the check, not the machine
COUNT, NOT_GOT = 16, 32  # words of the lock's memory: what it guards, and locks that were not got

corr = device_function(litmus_lanes.corr)
mp = device_function(litmus_lanes.mp)


@dataclass(frozen=True)
class Kernel:
    """`entry` runs on the GPU and calls `spread` with its lane; a test runs `spread` on a CPU."""

    entry: Callable[..., None]
    spread: Callable[..., None]
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
def litmus_pairs(x, y, z, mp_out, corr_out, instances_per_pair, lane, lanes):
    """MP over x and y, then CoRR over z, by pairs of lanes: even lanes write, odd ones read."""
    first = (lane >> 1) * instances_per_pair
    mp(x, y, mp_out, lane & 1, first, first + instances_per_pair)
    corr(z, z, corr_out, lane & 1, first, first + instances_per_pair)


@device_function
def litmus_role(x, y, mp_out, role, num_instances, lane, lanes):
    """One role of MP on all instances, by lane 0: for two GPUs, one role each."""
    if lane == 0:
        mp(x, y, mp_out, role, 0, num_instances)


def add_many_entry(word, rounds):
    add_many(word, rounds, lane_index(), num_lanes())


def count_under_lock_entry(lock, rounds):
    count_under_lock(lock, rounds, lane_index(), num_lanes())


def litmus_pairs_entry(x, y, z, mp_out, corr_out, instances_per_pair):
    litmus_pairs(x, y, z, mp_out, corr_out, instances_per_pair, lane_index(), num_lanes())


def litmus_role_entry(x, y, mp_out, role, num_instances):
    litmus_role(x, y, mp_out, role, num_instances, lane_index(), num_lanes())


def copy_entry(dst, src, num_bytes, stream_bytes):
    copy_aligned(dst, src, num_bytes, stream_bytes, lane_index(), num_lanes())


ADD = Kernel(add_many_entry, add_many, 2)
LOCK = Kernel(count_under_lock_entry, count_under_lock, 2)
PAIRS = Kernel(litmus_pairs_entry, litmus_pairs, 6)
ROLE = Kernel(litmus_role_entry, litmus_role, 5)
COPY = Kernel(copy_entry, copy_aligned, 4)
