"""Peers run for real, tiny, where they are installed, and their data is right; in a foreign world they are waived."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from umem.bench import peers
from umem.bench.cases import registry
from umem.bench.cases.collective import arguments_of
from umem.bench.harness.driver import Bench
from umem.bench.harness.rows import Status
from umem.bench.harness.side import Options, Point
from umem.bench.harness.timing import Depth, open_sides
from umem.bench.peers import collectives, mpi, ucxx
from umem.errors import Waived

TINY = Depth(num_rounds=2, samples_per_block=2, warmup_samples=1)
SIZES = {"begin_bytes": 256, "end_bytes": 16384, "factor": 64}
OWN_PROCESSES = ["gloo", "mpi", "ucxx"]
COMPARED = {
    "mpi": ("latency.message", "latency.rma", "atomics.fetch_add", "reduce", "exchange", "collective"),
    "gloo": ("latency.message", "reduce", "exchange", "collective", "moe"),
}


@pytest.mark.parametrize("peer", COMPARED)
def test_a_peer_runs_and_its_data_is_right(peer):
    with Bench(Options(peers=(peer,), **SIZES)) as bench:
        for case in registry.select(COMPARED[peer]):
            rows = [row for row in bench.run(case(), TINY, brief=True).rows if row.peer == peer]
            assert rows
            if rows[0].status == Status.WAIVED:
                pytest.skip(f"needs {peer}")
            assert {(row.status, row.errors) for row in rows} == {(Status.PASSED, 0)}


@pytest.mark.parametrize("peer", OWN_PROCESSES)
def test_a_peer_that_runs_outside_the_namespaces_is_waived_there(peer):
    with Bench(Options(world="hosts", peers=(peer,))) as bench:
        opened, (lack,) = open_sides(peers.sides(bench, "message", Point(8)))
    assert not opened
    assert isinstance(lack.error, Waived)
    assert "outside the network namespaces" in str(lack.error)


@pytest.mark.parametrize(("peer", "variable"), [("mpich", "UMEM_MPICH"), ("impi", "UMEM_IMPI")])
def test_an_mpi_that_is_not_there_is_waived_with_the_way_to_get_it(peer, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with Bench(Options(peers=(peer,))) as bench:
        arguments = arguments_of("barrier", Point(0))
        opened, (lack,) = open_sides(collectives.sides(bench, arguments))
    assert not opened
    assert isinstance(lack.error, Waived)
    assert f"and {variable}=FOLDER" in str(lack.error)


def test_ucxx_is_called_by_the_name_of_what_runs(monkeypatch):
    monkeypatch.setattr(ucxx, "find_spec", lambda name: name == "ucp" or None)
    (side,) = peers.sides(Bench(Options(peers=("ucxx",))), "message", Point(8))
    assert (side.name, side.peer) == ("ucxx", "ucp")


class FakeWindow:
    """Memory of another rank, for both kinds of access of mpi4py."""

    def __init__(self, num_bytes):
        self.memory = np.zeros(num_bytes, np.uint8)

    def Put(self, origin, rank, displacement):
        self.memory[displacement : displacement + len(origin)] = origin

    def Get(self, origin, rank, displacement):
        origin[:] = self.memory[displacement : displacement + len(origin)]

    def Flush(self, rank):
        pass


@pytest.mark.parametrize("operation", ["get", "put"])
def test_accesses_of_mpi_that_move_nothing_are_errors(operation):
    part = object.__new__(mpi.Mpi)
    part.rank, part.num_bytes, part.batch, part.lap, part.errors = 0, 64, 1, 0, 0
    part.src, part.dst = np.full(128, 1, np.uint8), np.zeros(128, np.uint8)
    part.mpi = SimpleNamespace(BYTE=None, _handleof=lambda thing: 0)
    part.window = FakeWindow(72)
    part.loops = SimpleNamespace(access_many=lambda *arguments: 0)
    getattr(part, f"_{operation}")(0, 1)
    assert part.num_errors() == 1
