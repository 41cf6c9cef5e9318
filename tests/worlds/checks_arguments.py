"""Counts, indices, homes, ranks and addresses are integers of any width, and nothing else; see test_space.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import umem
from umem.errors import AddressError, ArgumentTypeError, ConfigError, UnknownName
from umem.memory.address import Kind

from .checks_values import Uses, refused_each


def numbers_are_integers_of_any_width(space):
    last = space.num_ranks - 1
    for kind in (
        int,
        np.int8,
        np.uint8,
        np.int16,
        np.uint16,
        np.int32,
        np.uint32,
        np.int64,
        np.uint64,
        np.array,
    ):
        array = space.empty((kind(3), kind(100)), "float64", home=kind(last))
        assert array.shape == (3, 100) and all(type(extent) is int for extent in array.shape)
        assert array.address_of(kind(2), kind(99)) == array.address + 8 * 299
        assert space.empty(kind(5), "int8", cache="none", line=kind(64)).shape == (5,)
        assert space.shared(f"by {kind.__name__}", kind(5), "f8", home=kind(0)).shape == (5,)
        space.free(space.alloc(kind(64), home=kind(0), align=kind(64)))
        array.free()
    for kind in (np.int64, np.uint64, np.array):
        array = space.empty(8, "int64", home=last)
        at = kind(array.address)
        space.store(at, 7, "int64")
        assert space.fetch_add(at, 1) == 7 and space.load(at, "int64") == 8
        space.put(at, np.arange(8))
        space.copy(kind(array.address_of(4)), at, kind(32))
        room = np.zeros(8, np.int64)
        space.get(room, at)
        assert room.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
        if space.segments.reach.by_cpu(last, Kind.DEVICE):
            assert space.view(at, kind(8)).nbytes == 8
        space.free(at)
    assert space.shared("same", 4, "int8", home=[0, np.int64(0)][space.rank % 2]).shape == (4,)


def what_is_no_integer_is_named(space):
    array = space.empty(8, "int64")
    room = np.zeros(8, np.int64)

    def counts(bad: Any) -> Uses:
        yield lambda: array.address_of(bad)
        yield lambda: space.empty((bad,), "int8")
        yield lambda: space.alloc(bad)
        yield lambda: space.alloc(8, align=bad)
        yield lambda: space.copy(array.address, array.address + 32, bad)
        yield lambda: space.alloc(8, cache="back", line=bad)
        yield lambda: space.send(None, bad)
        yield lambda: space.recv(0, tag=bad)
        yield lambda: umem.launch(print, ranks=bad)

    def addresses(bad: Any) -> Uses:
        yield lambda: space.load(bad, "int64")
        yield lambda: space.store(bad, 1, "int64")
        yield lambda: space.fetch_add(bad, 1)
        yield lambda: space.exchange(bad, 1)
        yield lambda: space.compare_swap(bad, 0, 1)
        yield lambda: space.get(room, bad)
        yield lambda: space.put(bad, room)
        yield lambda: space.view(bad, 8)
        yield lambda: space.copy(bad, array.address, 8)
        yield lambda: space.free(bad)
        yield lambda: space.pointer(bad)
        yield lambda: space.address(bad)

    for bad in (True, 1.0, np.float64(1), "1", None, [1], np.array([1, 2])):
        refused_each(counts(bad), "whole number")
        if not isinstance(bad, str):
            with pytest.raises(ArgumentTypeError, match="home"):
                space.alloc(8, home=bad)
    for bad in (array.address + 0.5, float(array.address), str(array.address), None):
        refused_each(addresses(bad), "whole number")
    for bad in (1 << 63, 1 << 80, -(1 << 80)):
        with pytest.raises(AddressError):
            space.load(bad, "int64")
    for rank in (-1, space.num_ranks, np.int64(1 << 40)):
        with pytest.raises(ConfigError, match="rank"):
            space.send(None, rank)
        with pytest.raises(ConfigError, match="rank"):
            space.recv(rank)
    for dtype in ("datetime64[s]", "bool", "S3", [("a", "i4")], "complex64"):
        with pytest.raises(UnknownName, match="dtype"):
            space.load(array.address, np.dtype(dtype))
    array.free()


CHECKS = (numbers_are_integers_of_any_width, what_is_no_integer_is_named)
