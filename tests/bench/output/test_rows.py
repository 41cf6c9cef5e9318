"""The row format is a promise: its keys, and that every file gives back what was written."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict

import pytest

from tests.bench.examples import ROW, row
from umem.bench.harness.rows import COLUMNS, Results, read_json, write_csv, write_json
from umem.errors import ConfigError

PROMISED = """
case semantics peer transport world cache home ranks bytes p50_us p99_us cv samples gbps errors
limit_name limit fraction_of_limit status host version commit seed pair
"""


def test_columns_are_the_promised_ones():
    assert list(COLUMNS) == PROMISED.split()


ROWS = (
    ROW,
    row(peer="mpi", gbps=12.5, home="local", bytes=1 << 30),
    row(
        status="Waived",
        p50_us=None,
        p99_us=None,
        cv=None,
        limit=None,
        limit_name=None,
        fraction_of_limit=None,
    ),
    row(case="message_rate[window=16]", transport="", commit="", errors=3),
)


def test_json_round_trip(tmp_path):
    results = Results({"host": "a machine", "cores": 2}, ROWS, ("waived: x",))
    write_json(tmp_path / "r.json", results)
    assert read_json(tmp_path / "r.json") == results
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["peer"] is None


def test_csv_has_a_line_a_row_and_none_is_empty(tmp_path):
    write_csv(tmp_path / "r.csv", ROWS)
    with (tmp_path / "r.csv").open(newline="") as file:
        heading, *lines = csv.reader(file)
    assert heading == PROMISED.split()
    for line, written in zip(lines, ROWS, strict=True):
        assert line == ["" if value is None else str(value) for value in asdict(written).values()]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": [{"case": 1}], "notes": [], "machine": {}}'])
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match=r"r\.json"):
        read_json(tmp_path / "r.json")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_json(tmp_path / "none.json")
