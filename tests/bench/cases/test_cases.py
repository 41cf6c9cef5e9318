"""Cases run for real, tiny, in every world in which they have a meaning, and their data is right.

All but the SLOW ones, which minutes of compiling, or 2 GiB, keep out of the suite.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.bench.examples import FakeSide
from umem import limits
from umem.bench.cases import agent, registry
from umem.bench.harness.case import Case
from umem.bench.harness.driver import Bench
from umem.bench.harness.rows import Status
from umem.bench.harness.side import NO_SEMANTICS, Measured, Options, Point
from umem.bench.harness.timing import Depth
from umem.cli import app
from umem.errors import UmemError
from umem.units import GIB

TINY = Depth(num_rounds=1, samples_per_block=2, warmup_samples=1)
SIZES = {"begin_bytes": 256, "end_bytes": 16384, "factor": 64}
SLOW = ("verdict", "startup.ranks", "latency.chase")
CASES = [case for case in registry.all_cases() if case.key not in SLOW]
SAME_EVERYWHERE = ("startup.run", "limits.bandwidth", "limits.latency")  # run in one world only
NEEDS_PRIVILEGE = "unshare, or user namespaces, to make the `hosts` world"


@pytest.fixture(scope="module", params=["mapped", "no-peer-access", "hosts"])
def bench(request):
    with Bench(Options(world=request.param, **SIZES)) as opened:
        if request.param == "hosts":
            try:
                opened.ranks().start()
            except UmemError as error:
                pytest.skip(f"needs {NEEDS_PRIVILEGE}: {error}")
        yield opened


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_case_runs_and_its_data_is_right(bench, case, monkeypatch):
    monkeypatch.setattr(agent, "HOLD_S", 1.0)  # long enough for the few operations of a tiny run
    if case.key in SAME_EVERYWHERE and bench.options.world != "mapped":
        pytest.skip("the same in every world, and run in mapped")
    results = bench.run(case(), TINY, brief=True)
    assert results.rows
    assert sum(row.errors for row in results.rows) == 0
    failed = [row.case for row in results.rows if row.status == Status.ERROR]
    assert not failed, results.notes
    if case().waived(bench.options):
        assert {row.status for row in results.rows} == {Status.WAIVED}
        assert results.notes
    elif shutil.which("cc"):
        assert Status.PASSED in {row.status for row in results.rows}, results.notes


@pytest.mark.parametrize("case", registry.all_cases(), ids=lambda case: case.key)
def test_case_says_what_it_is(case):
    made = case()
    assert made.description
    assert "\n" not in made.description
    assert made.budget_s >= 0
    points = made.points(Options(world=made.worlds[0]))
    assert points
    assert all(point.num_bytes >= 0 for point in points)


@pytest.mark.parametrize("case", registry.all_cases(), ids=lambda case: case.key)
def test_semantics_of_a_case_are_those_of_its_sides(case):
    found = set()
    for world in case.worlds:
        options = Options(world=world, **SIZES)
        sides = [side for point in case().points(options) for side in case().sides(Bench(options), point)]
        found |= {side.semantics for side in sides if side.peer is None}
    assert found - {NO_SEMANTICS} == set(case.semantics) - {NO_SEMANTICS}


@pytest.mark.parametrize("case", registry.all_cases(), ids=lambda case: case.key)
def test_only_what_uses_the_peers_memory_names_it_as_home(case):
    if case.semantics == (NO_SEMANTICS,):
        assert case.home != "peer"


def test_a_chase_needs_memory_for_the_chains_that_it_makes(monkeypatch):
    monkeypatch.setattr(limits, "available_memory_bytes", lambda: GIB)
    chase = registry.find("latency.chase")
    monkeypatch.setattr(chase, "sides", lambda *_: [FakeSide("a", [1.0])])
    bench = Bench(Options())
    (note,) = bench.run(chase(), TINY).notes
    assert "needs 3G of free memory for two chains of 1G" in note
    assert {row.status for row in bench.run(chase(), TINY, brief=True).rows} == {Status.PASSED}


def test_semantics_choose_the_sides():
    with Bench(Options(semantics=("message",), **SIZES)) as bench:
        results = bench.run(registry.find("exchange")(), TINY, brief=True)
    assert {row.semantics for row in results.rows if row.peer is None} == {"message"}


def test_a_case_without_the_chosen_semantics_is_waived():
    with Bench(Options(semantics=("near",))) as bench:
        results = bench.run(registry.find("latency.line")(), TINY)
    assert [row.status for row in results.rows] == [Status.WAIVED]
    assert "--semantics load_store" in results.notes[0]


def test_a_case_that_needs_two_ranks_is_waived_with_one():
    with Bench(Options(ranks=1)) as bench:
        results = bench.run(registry.find("latency.line")(), TINY)
    assert [row.status for row in results.rows] == [Status.WAIVED]
    assert "needs 2 ranks" in results.notes[0]


def test_the_worst_cases_at_a_busy_home_are_told():
    blocks = {"get": [[1e-6, 9e-6], [2e-6, 3e-6]], "put": [[4e-6]], "eventfd": [[5e-6] * 99, [70e-6]]}
    arrays = {name: [np.array(block) for block in found] for name, found in blocks.items()}
    (told,) = registry.find("agent.busy_home")().remarks(Measured(Point.parse("8 burners=1"), arrays))
    assert told == "burners=1: worst case in us: get 9, put 4; eventfd p50 5, p99 6, worst 70"


def test_remarks_stand_among_the_notes():
    class Remarked(Case):
        key, description, budget_s = "remarked", "says how many blocks there were", 1.0

        def points(self, options):
            return [Point(8)]

        def sides(self, bench, point):
            return [FakeSide("a", [1.0])]

        def remarks(self, measured):
            return [f"{len(measured.blocks['a'])} blocks"]

    results = Bench(Options()).run(Remarked(), Depth(2, 1))
    assert results.notes == ("remark: remarked: 2 blocks",)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["latency.line", "-n", "1"], 3),
        (["latency.line", "limits.bandwidth", "-n", "1"], 0),
        (["--bars", "chase"], 3),
    ],
)
def test_what_was_waived_whole_is_no_success(monkeypatch, command, code):
    monkeypatch.setattr("umem.bench.command.prepare", lambda world: None)
    monkeypatch.setattr(limits, "available_memory_bytes", lambda: GIB)
    assert app.main(["bench", *command]) == code
