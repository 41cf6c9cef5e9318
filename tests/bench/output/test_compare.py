"""Two results, row by row."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench.examples import row
from umem.bench.harness.rows import Results
from umem.bench.output.compare import compare, print_comparison
from umem.errors import ConfigError


def results(*rows, host="a machine"):
    return Results({"host": host}, rows)


def test_speedup_is_of_the_fraction_of_the_limit_where_both_have_it():
    # The host became twice as slow, umem's own overhead grew by half.
    old = results(row(p50_us=0.1, limit=0.09, fraction_of_limit=0.9))
    new = results(row(p50_us=0.3, limit=0.18, fraction_of_limit=0.6))
    (change,) = compare(old, new).changes
    assert change.by_limit
    assert change.speedup == pytest.approx(0.6 / 0.9)


def test_speedup_is_of_the_time_where_there_is_no_limit():
    free = {"limit": None, "limit_name": None, "fraction_of_limit": None}
    (change,) = compare(results(row(p50_us=0.2, **free)), results(row(p50_us=0.1, **free))).changes
    assert not change.by_limit
    assert change.speedup == pytest.approx(2.0)


def test_rows_of_one_result_only_are_named():
    comparison = compare(results(row(), row(bytes=64)), results(row(), row(peer="mpi")))
    assert [only.bytes for only in comparison.only_old] == [64]
    assert [only.peer for only in comparison.only_new] == ["mpi"]
    assert len(comparison.changes) == 1


def test_results_without_a_common_row_are_refused():
    with pytest.raises(ConfigError, match="no row in common"):
        compare(results(row(bytes=8)), results(row(bytes=64)))


def test_other_machines_are_pointed_out():
    text = io.StringIO()
    print_comparison(Console(file=text, width=160), compare(results(row()), results(row(), host="another")))
    assert "different machines" in text.getvalue()
