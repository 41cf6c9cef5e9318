"""Kernels that do wrong on purpose, or wait for all blocks of their launch."""

from __future__ import annotations

from umem.kernels import fetch_add_i64, load_acquire_i64, load_i64, num_lanes, pause, store_i64


def store_at(base, offset, value):
    """Store an int64 `offset` bytes behind `base`."""
    store_i64(base + offset, 0, value)


def load_at(base, offset, value):
    """Load an int64 `offset` bytes behind `base`; where it is `value`, which it seldom is, look further."""
    while load_i64(base + offset, 0) == value + (1 << 40):
        offset += 8


def grid_barrier(counter):
    """Back when all lanes have come."""
    fetch_add_i64(counter, 0, 1)
    while load_acquire_i64(counter, 0) < num_lanes():
        pause()
