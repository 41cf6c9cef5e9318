"""Cached memory keeps the same promises in all three worlds, and with every protocol."""

from __future__ import annotations

import functools

import pytest

import umem
from umem.errors import ConfigError, ProtocolError

from . import checks_coherence

WORLDS = [
    ("mapped", 1, "msi"),
    ("mapped", 2, "msi"),
    pytest.param("mapped", 4, "mesi", marks=pytest.mark.soak),
    ("no-peer-access", 2, "msi"),
    ("hosts", 4, "mesi"),  # two ranks a host: some holders are mapped, some are not
    pytest.param("mapped", 8, "snoop", marks=pytest.mark.soak),
    pytest.param("no-peer-access", 4, "snoop", marks=pytest.mark.soak),
    pytest.param("hosts", 2, "msi", marks=pytest.mark.soak),
]


@functools.cache
def outcomes(world: str, ranks: int, protocol: str) -> list[dict[str, str]]:
    """What every rank of one launch reports. The cache is small, so that lines are evicted."""
    return umem.launch(
        checks_coherence.run_all,
        ranks=ranks,
        world=world,
        protocol=protocol,
        line_cache="16K",
        segment="256M",
        timeout_s=60,
        results="all",
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", checks_coherence.CHECKS)
@pytest.mark.parametrize(("world", "ranks", "protocol"), WORLDS, ids=str)
def test_cached_memory(world, ranks, protocol, check):
    for rank, outcome in enumerate(outcomes(world, ranks, protocol)):
        told = outcome.get(check, outcome.get("stopped"))
        assert told == "ok", f"rank {rank}: {told}"


@pytest.mark.parametrize("ways", [1, pytest.param(2, marks=pytest.mark.soak), 16])
def test_a_cache_of_any_ways_keeps_what_it_must(ways):
    told = umem.launch(
        checks_coherence.run_all,
        ranks=2,
        line_cache="4K",
        line_cache_ways=ways,
        segment="256M",
        timeout_s=60,
        results="all",
    )
    assert all(outcome == "ok" for rank in told for outcome in rank.values()), told


@pytest.mark.parametrize("ways", [0, 3, 32])
def test_ways_that_cannot_be_are_refused(ways):
    with pytest.raises(ConfigError, match=f"ways of the line cache: {ways} is not a power of two"):
        umem.launch(lambda space: None, ranks=1, segment="64M", line_cache_ways=ways)


@pytest.mark.parametrize("size", [0, 100, -4096])
def test_a_cache_of_no_lines_is_refused(size):
    with pytest.raises(ConfigError):
        umem.launch(lambda space: None, ranks=1, segment="64M", line_cache=size)


def test_a_protocol_with_a_missing_row_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from umem.coherence.protocol import *\n"
        "rows = dict(MSI.rows)\n"
        "del rows[M, GET_SHARED, STRANGER]\n"
        "protocol = Protocol('mine', rows)\n"
    )
    with pytest.raises(ProtocolError, match="GET_SHARED"):
        umem.launch(lambda space: None, ranks=1, segment="64M", protocol=str(file))


def test_a_protocol_that_loses_writes_is_found_before_it_runs(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from umem.coherence.protocol import *\n"
        "lazy = Row(READ_HOME | SET_OWNER, M, Copy.M)  # invalidates nobody\n"
        "protocol = Protocol('lazy', {**MSI.rows, (S, GET_OWNED, STRANGER): lazy})\n"
    )
    with pytest.raises(ProtocolError):
        umem.launch(lambda space: None, ranks=1, segment="64M", protocol=str(file))
