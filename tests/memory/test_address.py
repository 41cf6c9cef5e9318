"""One address a byte, the same arithmetic in Python and in compiled code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umem.errors import AddressError, AddressSpaceFull, ConfigError
from umem.kernels.page import control as layout
from umem.kernels.page.control import contiguous_bytes, home_rank
from umem.memory.address import BASE, SPACE_BYTES, AddressMap, Kind, Place
from umem.memory.control_page import ControlPage
from umem.units import GIB, MIB, TIB

worlds = st.builds(
    AddressMap.plan,
    num_ranks=st.integers(1, 9),
    device_bytes=st.integers(1, 40).map(lambda n: n * 2 * MIB),
    host_bytes=st.integers(0, 8).map(lambda n: n * 2 * MIB),
    meta_bytes=st.just(4 * MIB),
    striped_fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


def places(plan: AddressMap):
    """Places of a world, by rank, kind and offset."""
    kinds = [kind for kind in Kind if (plan.device_bytes if kind is Kind.DEVICE else plan.host_bytes)]
    return st.builds(
        lambda rank, kind, share: Place(
            rank, kind, int(share * ((plan.device_bytes if kind is Kind.DEVICE else plan.host_bytes) - 1))
        ),
        st.integers(0, plan.num_ranks - 1),
        st.sampled_from(kinds),
        st.floats(0, 1),
    )


@given(st.data())
def test_every_byte_has_one_address(data):
    plan = data.draw(worlds)
    place = data.draw(places(plan))
    address = plan.address(place)
    assert plan.place(address) == place
    assert BASE <= address < plan.end


@given(st.data())
def test_windows_of_different_bytes_never_meet(data):
    plan = data.draw(worlds)
    first, second = data.draw(places(plan)), data.draw(places(plan))
    assert (plan.address(first) == plan.address(second)) == (first == second)


@settings(max_examples=60)
@given(st.data())
def test_compiled_arithmetic_agrees(data):
    """Plain-Python run of the same kernels that are compiled: home and piece of any address."""
    plan = data.draw(worlds)
    words = np.zeros(layout.CONTROL_BYTES // 8, np.int64)
    ControlPage(words).initialise(0, plan, has_own_core=True)
    address = data.draw(st.one_of(places(plan).map(plan.address), st.integers(BASE, plan.end)))
    try:
        expected = plan.home(address), plan.contiguous_bytes(address)
    except AddressError:
        expected = layout.NO_HOME, 0
    assert (home_rank(words.ctypes.data, address), contiguous_bytes(words.ctypes.data, address)) == expected


def test_striped_window_is_contiguous_and_rotates():
    plan = AddressMap.plan(3, 64 * MIB, 0, MIB, striped_fraction=0.5)
    homes = [plan.home(plan.striped_base + n * plan.block_bytes) for n in range(6)]
    assert homes == [0, 1, 2, 0, 1, 2]
    pieces = plan.pieces(plan.striped_base + plan.block_bytes - 64, 128)
    assert [size for _, size in pieces] == [64, 64]


def test_blocks_grow_where_a_process_would_need_too_many_mappings():
    plan = AddressMap.plan(4, 64 * GIB, 0, MIB)
    assert plan.num_ranks * plan.striped_bytes // plan.block_bytes <= 8192
    assert plan.block_bytes > 2 * MIB


def test_a_range_that_leaves_its_segment_is_refused():
    plan = AddressMap.plan(2, 64 * MIB, 0, MIB, striped_fraction=0)
    with pytest.raises(AddressError):
        plan.pieces(plan.slot_address(1, Kind.DEVICE) + 64 * MIB - 8, 16)
    with pytest.raises(AddressError):
        plan.home(plan.end + 8)


def test_no_room_names_the_way_out():
    with pytest.raises(AddressSpaceFull, match="smaller segments or fewer ranks"):
        AddressMap.plan(512, 1 * TIB, 0, MIB)
    assert AddressMap.plan(512, 16 * GIB, 0, MIB).end - BASE <= SPACE_BYTES


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_fraction_is_checked(fraction):
    with pytest.raises(ConfigError):
        AddressMap.plan(2, 64 * MIB, 0, MIB, striped_fraction=fraction)
