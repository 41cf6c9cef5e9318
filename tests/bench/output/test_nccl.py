"""The columns of nccl-tests."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench.examples import row
from umem.bench.cases import registry
from umem.bench.harness.rows import Results
from umem.bench.output import nccl
from umem.cli import app


@pytest.mark.parametrize(
    ("operation", "num_ranks", "factor"),
    [
        ("all_reduce", 4, 1.5),
        ("all_gather", 4, 0.75),
        ("reduce_scatter", 4, 0.75),
        ("all_to_all", 4, 0.75),
        ("broadcast", 4, 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(operation, num_ranks, factor):
    assert nccl.bus_factor(operation, num_ranks) == factor


def printed(key, rows):
    text = io.StringIO()
    nccl.print_case(Console(file=text, width=160), registry.find(key), Results({}, tuple(rows)))
    return [" ".join(line.split()) for line in text.getvalue().splitlines() if not line.startswith("#")]


def test_a_line_has_both_places_of_a_size():
    rows = [
        row(
            case=f"collective.all_gather[in_place={place}]", bytes=4000, ranks=4, p50_us=time_us, errors=place
        )
        for place, time_us in ((0, 2.0), (1, 1.0))
    ]
    found = printed("collective.all_gather", rows)
    assert found == ["4000 250 float32 none -1 2 2.00 1.50 0 1 4.00 3.00 1"]


def test_type_and_reduction_are_those_of_the_row_and_what_is_absent_is_not_0():
    rows = [row(case="collective.all_reduce[in_place=0 dtype=float16 op=max]", bytes=4000, p50_us=None)]
    found = printed("collective.all_reduce", rows)
    assert found == ["4000 2000 float16 max -1 - - - N/A - - - N/A"]


def test_every_side_has_a_table():
    rows = [row(case="collective.broadcast", peer=peer, bytes=8) for peer in (None, "mpi")]
    assert len(printed("collective.broadcast", rows)) == 2


def test_other_cases_and_formats_are_refused(capsys):
    assert app.main(["bench", "latency.line", "--format", "nccl"]) == 2
    assert "latency.line has no columns of nccl-tests" in capsys.readouterr().err
    assert app.main(["bench", "collective", "--format", "nonsense"]) == 2
