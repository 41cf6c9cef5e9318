"""The table: `#` before what is no row, a line a row."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench.examples import row
from umem.bench import command
from umem.bench.cases import registry
from umem.bench.harness import hardware
from umem.bench.harness.rows import Results
from umem.bench.output import plot, table
from umem.errors import Waived

MACHINE = {"version": "1", "commit": "abc", "host": "h", "memory": "1G", "numba": "0"}


def printed(function, *arguments):
    text = io.StringIO()
    function(Console(file=text, width=160), *arguments)
    return text.getvalue()


def test_every_header_line_is_a_comment():
    text = printed(table.print_header, Results(MACHINE, ()), "mapped", (100.0,))
    assert all(line.startswith("# ") for line in text.splitlines())
    assert "same DRAM" in text
    assert "100 ns at best: the cores share a cache" in text


def test_far_cores_are_pointed_out():
    assert "far apart" in table.core_distance((450.0,))


def test_cores_that_moved_are_told_at_the_end():
    told = "a line goes to the other core and back in 348 and later 99 ns: the host moves the cores, near and far"
    assert table.core_distance((348.0, 99.0)) == told
    assert f"# {told}" in printed(table.print_footer, [row()], (348.0, 99.0))
    assert "in 90 ns at best: the cores share a cache" in table.core_distance((99.0, 90.0))


def tries(monkeypatch, *round_trips_ns):
    """Make these the round trips that are found in turn; None is one that no other core answered."""
    found = iter(round_trips_ns)

    def line_round_trip_ns(num_rounds):
        one = next(found)
        if one is None:
            raise Waived("it was not running")
        return one

    monkeypatch.setattr(hardware, "line_round_trip_ns", line_round_trip_ns)
    monkeypatch.setattr(command, "PING_PONG_TRIES", len(round_trips_ns))


def test_the_distance_of_the_cores_is_the_best_of_several_tries(monkeypatch):
    tries(monkeypatch, 348.0, None, 99.0, 26_000.0)
    assert command.core_ping_pong_ns() == (99.0,)
    tries(monkeypatch, None, None)
    assert command.core_ping_pong_ns() == ()


def test_a_case_is_its_sentence_and_a_line_a_row():
    rows = (row(), row(peer="mpi", bytes=1 << 20), row(case="latency.line[window=4]", errors=2))
    text = printed(table.print_case, registry.find("latency.line"), Results(MACHINE, rows, ("waived: x",)))
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0].startswith("# latency.line: ")
    assert lines[-1] == "# waived: x"
    assert len(lines) == 1 + 2 + len(rows) + 1
    assert "1M" in text
    assert "window=4" in text


def test_the_footer_counts_errors():
    text = printed(table.print_footer, [row(), row(errors=2, status="Error"), row(status="Waived")])
    assert text.strip() == "# rows 3, wrong 2, errors 1, waived 1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (1234.5, "1234"),
        (12.3456, "12.35"),
        (0.012346, "0.01235"),
        (0.0000123, "1.23e-05"),
    ],
)
def test_numbers_have_four_digits(value, text):
    assert table.number(value) == text


def test_a_crossover_is_where_loads_and_messages_change_places():
    times = {"load_store": (1.0, 4.0, 16.0), "message": (2.0, 2.0, 2.0), "near": (9.0, 9.0, 9.0)}
    rows = [
        row(semantics=name, bytes=size, p50_us=time_us)
        for name, found in times.items()
        for size, time_us in zip((64, 1024, 16384), found, strict=True)
    ]
    (size,) = plot.crossovers(rows)
    assert size == pytest.approx(256)
    assert plot.crossovers([one for one in rows if one.semantics != "message"]) == []
    assert plot.crossovers([one for one in rows if one.semantics != "near"][:3]) == []
    peers = [row(semantics="message", peer="mpi", bytes=size, p50_us=2.0) for size in (64, 1024)]
    assert plot.crossovers([*rows[:3], *peers]) == []


@pytest.mark.parametrize("suffix", plot.PICTURE_SUFFIXES)
def test_rows_are_drawn(tmp_path, suffix):
    rows = [row(bytes=size, p50_us=size / 8) for size in (8, 64, 512)] + [row(case="other", peer="mpi")]
    path = tmp_path / f"rows{suffix}"
    plot.save(plot.sweep_figure(rows), path)
    assert path.stat().st_size > 1000


def test_nothing_measured_is_drawn_as_such(tmp_path):
    plot.save(plot.sweep_figure([row(p50_us=None)]), tmp_path / "rows.png")


def test_the_picture_of_the_steps_is_svg():
    steps = [("copy_out", 1.0), ("pack", 2.0), ("transfer", 3.0), ("unpack", 2.0), ("copy_in", 1.0)]
    text = plot.svg(plot.steps_figure(steps, 0.5, "a slice of 1M"))
    assert text.startswith("<svg")
    assert text.rstrip().endswith("</svg>")


def test_a_side_for_all_is_in_the_panel_of_each():
    names = [
        "miss",
        "miss[read]",
        "miss[write]",
        "hit[threads=1]",
        "hit[threads=1 load]",
        "hit[threads=11 add]",
    ]
    found = plot.panels([row(case=name) for name in names])
    assert {name: [one.case for one in rows] for name, rows in found.items()} == {
        "miss[read]": ["miss", "miss[read]"],
        "miss[write]": ["miss", "miss[write]"],
        "hit[threads=1 load]": ["hit[threads=1]", "hit[threads=1 load]"],
        "hit[threads=11 add]": ["hit[threads=11 add]"],
    }
