"""Plans of embedding tables: pure, so every promise is tried on many made-up sets of tables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umem.embedding.planning import TableSpec, plan_tables, read_tables
from umem.errors import ConfigError, OutOfMemory

TABLES = st.lists(
    st.builds(
        TableSpec,
        name=st.uuids().map(str),
        num_rows=st.integers(0, 10**7),
        num_columns=st.integers(1, 512),
        dtype=st.sampled_from(["float32", "bfloat16", "int8"]),
        optimizer=st.none(),
        lookups=st.floats(0, 1e6),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(TABLES, st.integers(1, 16))
def test_nothing_is_lost_and_no_rank_carries_much_more_than_its_share(tables, num_ranks):
    plan = plan_tables(tables, num_ranks, 1 << 50)
    assert {each.table.name for each in plan.placed} == {table.name for table in tables}
    total, traffic = sum(t.num_bytes for t in tables), sum(t.traffic_bytes for t in tables)
    assert sum(plan.bytes_of_rank) >= total
    assert sum(plan.traffic_of_rank) == pytest.approx(traffic)
    assert sum(plan.lookups_of_rank) == pytest.approx(sum(t.lookups for t in tables))
    if num_ranks > 1:
        # What lies whole is at most a quarter of a fair share, and goes where least is looked up.
        assert max(plan.traffic_of_rank) <= 1.25 * traffic / num_ranks + 1e-6 * traffic + 1e-9
    assert all(each.why for each in plan.placed)


def test_heavy_tables_are_dealt_out_and_small_ones_lie_whole():
    big = TableSpec("items", 10_000_000, 64, optimizer="adagrad", lookups=80_000)
    small = [TableSpec(f"flag{i}", 100, 16, lookups=100) for i in range(4)]
    plan = plan_tables([*small, big], 2, 8 << 30)
    assert plan.placed[0].placement == "rows" and "fair bytes" in plan.placed[0].why
    assert sorted(each.placement for each in plan.placed[1:]) == [0, 0, 1, 1]
    assert big.row_bytes == 260


def test_what_does_not_fit_is_said():
    with pytest.raises(OutOfMemory, match=r"items of 2\.4G does not fit: rank 0 would have 1\.2G of 1G"):
        plan_tables([TableSpec("items", 10_000_000, 64, optimizer="adagrad")], 2, 1 << 30)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({}, "a list of objects"),
        ([1], "table 0 is no object"),
        ([{"name": "a", "num_rows": 1}], "missing num_columns"),
        ([{"name": "a", "num_rows": 1, "num_columns": 1, "rows": 2}], "unknown rows"),
        ([{"name": "a", "num_rows": 1, "num_columns": 0}], "num_columns"),
        ([{"name": "a", "num_rows": 1, "num_columns": 1, "dtype": "int32"}], "int32"),
        ([{"name": "a", "num_rows": 1, "num_columns": 1, "optimizer": "lion"}], "lion"),
        ([{"name": "a", "num_rows": 1, "num_columns": 1, "lookups": -1}], "lookups=-1"),
        ([{"name": "a", "num_rows": 1, "num_columns": 1}] * 2, "twice"),
    ],
)
def test_files_that_make_no_sense(entries, text):
    with pytest.raises(ConfigError, match=text):
        read_tables(entries)


def test_the_command(tmp_path):
    file, out = tmp_path / "tables.json", tmp_path / "plan.json"
    file.write_text(json.dumps([{"name": "users", "num_rows": 5000, "num_columns": 64, "lookups": 4096}]))
    command = [
        sys.executable,
        "-m",
        "umem",
        "plan",
        str(file),
        "-n",
        "4",
        "--memory",
        "1G",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "users" in done.stdout and "rows" in done.stdout
    assert json.loads(out.read_text())["bytes_of_rank"] == [1250 * 256] * 4
    bad = subprocess.run(
        [*command[:4], str(tmp_path / "none.json")], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2 and "none.json" in bad.stderr
