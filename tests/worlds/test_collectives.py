"""Collectives, by loads and stores and by messages: every operation, type and length against NumPy."""

from __future__ import annotations

import pytest

import umem
from tests.worlds import checks_collectives as checks
from tests.worlds import checks_members
from umem.errors import LaunchError, NotMappable

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


# In the second world no member maps another's memory, and teams go by messages.
WORLDS = pytest.mark.parametrize("world", ["mapped", "no-peer-access"])


@WORLDS
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_reductions(ranks, world):
    lengths = checks.LENGTHS if ranks == 2 else (5, 58, 5000, 100_001)
    umem.launch(
        checks.check_reductions,
        ranks,
        world=world,
        segment="256M",
        args=(("float32",), ("sum", "avg"), lengths),
    )


@WORLDS
def test_reductions_of_every_type(world):
    args = DTYPES, checks.OPERATIONS, (7, 5003)
    umem.launch(checks.check_reductions, 3, world=world, segment="256M", args=args)


@WORLDS
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_moves(ranks, world):
    args = ("float32", "int8", "complex128"), (0, 1, 3, 29, 200, 5000, 70_001)
    umem.launch(checks.check_moves, ranks, world=world, segment="256M", args=args)


@WORLDS
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_length_has_the_bits_of_the_whole(ranks, world):
    umem.launch(checks.check_lengths, ranks, world=world, segment="64M")


@WORLDS
@pytest.mark.parametrize("ranks", [2, 3])
def test_what_members_call_differently(ranks, world):
    umem.launch(checks.check_mismatches, ranks, world=world, segment="64M", timeout_s=20)


def test_tensors():
    pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
    umem.launch(checks.check_torch, 2, segment="64M")


@WORLDS
def test_teams_come_and_go(world):
    umem.launch(checks.check_reopening, 3, world=world, segment="64M")


def test_members_agree_on_the_semantics():
    umem.launch(checks_members.check_semantics, 2, segment="64M")


def test_loads_and_stores_need_memory_that_all_map():
    with pytest.raises(NotMappable, match="does not map the memory of ranks"):
        umem.launch(checks_members.make_team, 2, world="no-peer-access", segment="64M", args=("load_store",))


@pytest.mark.parametrize("semantics", ["auto", "message"])
def test_a_team_ends_with_its_space(semantics):
    umem.launch(checks_members.check_end, 2, segment="64M", args=(semantics,))


@WORLDS
def test_arguments_are_refused(world):
    umem.launch(checks.check_arguments, 2, world=world, segment="64M")


@WORLDS
def test_teams_and_threads(world):
    umem.launch(checks.check_teams, 3, world=world, segment="128M")


@WORLDS
def test_a_member_that_does_not_come(world):
    umem.launch(checks.check_absence, 2, world=world, segment="64M")


@WORLDS
@pytest.mark.parametrize("num_bytes", [8, 4096, 1 << 20])
def test_a_member_that_dies(num_bytes, world):
    options = {"segment": "64M", "timeout_s": 20, "results": "all", "on_failure": "continue"}
    *survivors, died = umem.launch(checks.check_death, 3, world=world, args=(num_bytes,), **options)
    assert isinstance(died, LaunchError) and "SIGKILL" in str(died)
    assert survivors == [None, None]


def test_ranks_of_several_hosts():
    umem.launch(checks_members.check_hosts, 2, world="hosts", segment="128M", timeout_s=20)


def test_a_member_that_dies_on_another_host():
    options = {"segment": "64M", "timeout_s": 20, "results": "all", "on_failure": "continue"}
    *survivors, died = umem.launch(checks.check_death, 3, world="hosts", args=(1 << 20,), **options)
    assert isinstance(died, LaunchError) and "SIGKILL" in str(died)
    assert survivors == [None, None]


def test_teams_that_members_call_in_different_order():
    umem.launch(checks_members.check_order, 2, segment="64M")


@pytest.mark.soak
@WORLDS
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_reductions_of_every_type_and_more_ranks_than_cores(ranks, world):
    args = DTYPES, checks.OPERATIONS, (1, 58, 1000, 40_001)
    umem.launch(checks.check_reductions, ranks, world=world, segment="256M", args=args)
