"""Collectives of teams that map each other's memory: every operation, type and length against NumPy."""

from __future__ import annotations

import pytest

import umem
from tests.worlds import checks_collectives as checks
from umem.collectives import Team
from umem.errors import LaunchError, NotMappable

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_reductions(ranks):
    lengths = checks.LENGTHS if ranks == 2 else (5, 58, 5000, 100_001)
    umem.launch(checks.check_reductions, ranks, segment="256M", args=(("float32",), ("sum", "avg"), lengths))


def test_reductions_of_every_type():
    umem.launch(checks.check_reductions, 3, segment="256M", args=(DTYPES, checks.OPERATIONS, (7, 5003)))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_moves(ranks):
    umem.launch(
        checks.check_moves,
        ranks,
        segment="256M",
        args=(("float32", "int8", "complex128"), (0, 1, 3, 29, 200, 5000, 70_001)),
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_length_has_the_bits_of_the_whole(ranks):
    umem.launch(checks.check_lengths, ranks, segment="64M")


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_members_call_differently(ranks):
    umem.launch(checks.check_mismatches, ranks, segment="64M", timeout_s=20)


def test_tensors():
    pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
    umem.launch(checks.check_torch, 2, segment="64M")


def test_teams_come_and_go():
    umem.launch(checks.check_reopening, 3, segment="64M")


def test_teams_need_memory_that_all_map():
    with pytest.raises(NotMappable, match="does not map the memory of ranks"):
        umem.launch(Team, 2, world="no-peer-access", segment="64M")


def test_arguments_are_refused():
    umem.launch(checks.check_arguments, 2, segment="64M")


def test_teams_and_threads():
    umem.launch(checks.check_teams, 3, segment="128M")


def test_a_member_that_does_not_come():
    umem.launch(checks.check_absence, 2, segment="64M")


@pytest.mark.parametrize("num_bytes", [8, 4096, 1 << 20])
def test_a_member_that_dies(num_bytes):
    options = {"segment": "64M", "timeout_s": 20, "results": "all", "on_failure": "continue"}
    *survivors, died = umem.launch(checks.check_death, 3, args=(num_bytes,), **options)
    assert isinstance(died, LaunchError) and "SIGKILL" in str(died)
    assert survivors == [None, None]
