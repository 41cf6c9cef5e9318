"""A rank that dies in the middle of a case: said at the end, exit code 1, no hang, nothing left."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.leftovers import ends_soon, files_left, shared_memory_files
from umem.bench.cases import registry
from umem.bench.cases.latency import Line
from umem.bench.harness.driver import Bench
from umem.bench.harness.rows import Status, read_json
from umem.bench.harness.side import Options, PartSide
from umem.bench.verdict import verdict
from umem.bench.verdict.evidence import gather
from umem.cli import app

VICTIM = 1  # rank
DELAY_S = 0.2
LONG = 100_000  # samples: minutes, so that the block is under way when the signal comes


class KilledSide(PartSide):
    """Its block is under way when rank 1 is killed."""

    pids: tuple[int, ...] = ()

    def block(self, num_samples):
        KilledSide.pids = tuple(self._part.group.pids)
        killer = threading.Timer(DELAY_S, os.kill, (self.pids[VICTIM], signal.SIGKILL))
        killer.start()
        try:
            return super().block(LONG)
        finally:
            killer.join()


class Dying(Line):
    """A line that goes to the peer, which dies."""

    def sides(self, bench, point):
        (side, _) = super().sides(bench, point)
        return [KilledSide("load_store", "load_store", side._part, transport="mapped")]


pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path_factory):
    """Fails where a rank, a file in /dev/shm or a folder of the driver outlives the test."""
    tmp_path_factory.getbasetemp()  # made once, for all tests after this one too: not in a folder that goes away
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        files_before = shared_memory_files()
        yield
        assert all(ends_soon(pid) for pid in KilledSide.pids)
        assert not files_left(files_before)
        assert not list(Path(folder).glob("umem-bench-*"))


def test_the_row_is_an_error_and_the_next_case_gets_new_ranks():
    with Bench(Options()) as bench:
        (row,) = (found := bench.run(Dying())).rows
        assert row.status == Status.ERROR
        (note,) = found.notes
        assert note.startswith(f"error: latency.line: RankLost: rank {VICTIM} is dead")
        after = bench.run(Line())
        assert {row.status for row in after.rows} == {Status.PASSED}


def test_bench_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr("umem.bench.command.prepare", lambda world: None)
    monkeypatch.setattr(registry, "select", lambda names: [Dying])
    assert app.main(["bench", "latency.line"]) == 1
    assert "errors 1" in capsys.readouterr().out.splitlines()[-1]


def test_the_verdict_ends_with_1_and_its_last_line_says_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(verdict, "cases", lambda: [Dying, registry.find("exchange")])
    monkeypatch.setattr(verdict, "COMPARED_PEERS", ())
    monkeypatch.setattr(verdict, "prepare", lambda world: None)
    monkeypatch.setattr(verdict, "gather", partial(gather, num_instances=2000))
    report, rows = tmp_path / "report.html", tmp_path / "rows.json"
    assert app.main(["verdict", "--report", str(report), "--json", str(rows)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED: latency.line" in lines[-1]
    page = report.read_text()
    assert "<h2>What failed</h2><ul><li>latency.line: RankLost" in page
    assert "Not measured here" not in page
    found = read_json(rows).rows
    assert {row.status for row in found if row.case == "exchange"} == {Status.PASSED}
