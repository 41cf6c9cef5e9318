"""Teams over several hosts, some of whose members share one: the bits, mismatches and deaths of all other teams."""

from __future__ import annotations

import pytest

import umem
from tests.worlds import checks_collectives, checks_levels, checks_members
from umem.errors import LaunchError

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


def test_all_operations():
    umem.launch(checks_members.check_hosts, 4, world="hosts", segment="128M", timeout_s=20)


@pytest.mark.parametrize(("ranks", "hosts"), [(3, 2), pytest.param(5, 3, marks=pytest.mark.soak)])
def test_the_bits_are_those_of_messages(ranks, hosts):
    options = {"world": "hosts", "hosts": hosts, "segment": "64M", "timeout_s": 30}
    umem.launch(checks_levels.check_levels, ranks, args=(DTYPES,), **options)


@pytest.mark.parametrize(
    ("check", "args"),
    [(checks_collectives.check_death, (1 << 20,)), (checks_levels.check_death_between_levels, ())],
    ids=["at the heads", "between levels"],
)
def test_a_member_that_dies(check, args):
    options = {
        "world": "hosts",
        "segment": "64M",
        "timeout_s": 20,
        "results": "all",
        "on_failure": "continue",
    }
    *survivors, died = umem.launch(check, 4, args=args, **options)
    assert isinstance(died, LaunchError) and "SIGKILL" in str(died)
    assert survivors == [None] * 3
