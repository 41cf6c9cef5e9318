"""Random race-free programs, locks and concurrent sums on cached memory, in every kind of world."""

from __future__ import annotations

import itertools

import pytest

import umem
from umem.coherence.protocol import PROTOCOLS

from . import checks_coherence_random

SMALL_CACHE = 512  # bytes: eight lines of 64, so that every program evicts


def run(world: str, ranks: int, protocol: str, rounds: int, seed: int = 1) -> dict[str, int]:
    """What all ranks counted in one world."""
    rows = umem.launch(
        checks_coherence_random.run_all,
        ranks=ranks,
        world=world,
        segment="64M",
        line_cache=SMALL_CACHE,
        protocol=protocol,
        timeout_s=60,
        results="all",
        args=(rounds, seed),
    )
    return {name: sum(row[name] for row in rows) for name in rows[0]}


@pytest.mark.parametrize(
    ("world", "ranks", "protocol"),
    [("mapped", 2, "mesi"), ("mapped", 4, "msi"), ("no-peer-access", 2, "snoop"), ("hosts", 4, "msi")],
    ids=str,
)
def test_every_read_finds_who_wrote_last_and_sums_are_exact(world, ranks, protocol, why_no_hosts):
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    counted = run(world, ranks, protocol, rounds=2)
    for met in ("hits", "invalidations", "forwards", "write_backs", "home_transactions"):
        assert counted[met] > 0, f"no {met}: the programs do not test them"
    assert (counted["flits"] > 0) == (counted["probes"] > 0) == (world != "mapped")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "protocol"), [*itertools.product((2, 4), PROTOCOLS), (8, "msi")], ids=str)
def test_long_programs_find_who_wrote_last(world_kind, ranks, protocol, soak_factor):
    for seed in range(2, 2 + soak_factor):
        run(world_kind, ranks, protocol, rounds=8, seed=seed)
