"""The verdict runs in every world, concludes what the world is, and fits its time by its budgets."""

from __future__ import annotations

import re
from functools import partial

import pytest
from rich.console import Console

from umem.bench import limits, registry, report, verdict
from umem.bench.case import Options
from umem.bench.driver import Bench
from umem.bench.evidence import LOAD_STORE, Conclusion, Evidence, gather
from umem.bench.rows import Results, read_json
from umem.errors import UmemError
from umem.world.launcher import launch

from .examples import row

FEW = ("latency.line", "latency.message", "limits.bandwidth", "exchange")


def test_the_budgets_add_up_to_less_than_90_seconds():
    assert verdict.budget_s() <= verdict.LIMIT_S == 90.0
    assert all(case.budget_s > 0 for case in verdict.cases())


def test_every_case_of_the_verdict_is_shown_in_a_section():
    rows = {
        key: Results({}, (row(case=key), row(case=key, semantics="message", bytes=64)))
        for key in verdict.MEASURED + verdict.WORKLOADS
        if key != "anatomy"
    }
    found = verdict.Findings(Evidence([[LOAD_STORE]], [[1]]), rows, ())
    shown = {line[0] for section in verdict.describe(found, Options()) for line in section.lines}
    assert set(rows) <= shown


def test_a_section_whose_cases_found_nothing_is_absent():
    found = verdict.Findings(Evidence([[LOAD_STORE]], [[1]]), {}, ())
    titles = [section.title for section in verdict.describe(found, Options())]
    assert titles == ["How each byte is reached", "One address, one value"]


def test_the_distance_of_the_cores_is_told_of_both_ends(monkeypatch):
    found = iter(((348.0,), (99.0,)))
    monkeypatch.setattr(verdict.command, "core_ping_pong_ns", lambda: next(found))
    monkeypatch.setattr(verdict, "gather", lambda ranks, seed: Evidence([[LOAD_STORE]], [[1]]))
    monkeypatch.setattr(verdict, "cases", list)
    assert verdict.measure(Bench(Options()), end=0.0).ping_pong_ns == (348.0, 99.0)


def test_the_crossover_is_told_between_the_sizes_measured():
    rows = [
        row(case="exchange", semantics=semantics, bytes=size, p50_us=time_us)
        for semantics, times in {"load_store": (1.0, 10.0, 100.0), "message": (4.0, 12.0, 50.0)}.items()
        for size, time_us in zip((64, 4096, 65536), times, strict=True)
    ]
    found = verdict.Findings(Evidence([[LOAD_STORE]], [[1]]), {"exchange": Results({}, tuple(rows))}, ())
    section = verdict.crossover_section(found)
    assert section is not None
    (line,) = section.lines
    assert line[:3] == ("exchange", "4 x at 64", "0.5 x at 64K")
    assert re.fullmatch(r"from about \d+(\.\d+)?K", line[3])


@pytest.fixture
def few_cases(monkeypatch):
    monkeypatch.setattr(verdict, "cases", lambda: [registry.find(key) for key in FEW])
    monkeypatch.setattr(verdict, "peers_here", tuple)
    monkeypatch.setattr(verdict, "gather", partial(gather, num_instances=2000))


def run(tmp_path, world, ranks=2):
    """Exit code, lines on stdout, the page."""
    file = tmp_path / "out.txt"
    with file.open("w") as out:
        console = Console(file=out, width=160)
        page = tmp_path / "report.html"
        code = verdict.run(console, ranks, world, page, tmp_path / "rows.json", seed=1)
    return code, file.read_text().splitlines(), page.read_text()


def is_available(world):
    try:
        launch(_nothing, ranks=2, world=world, segment="64M")
    except UmemError:
        return False
    return True


def _nothing(space):
    return None


@pytest.mark.parametrize(
    ("world", "last"),
    [
        ("mapped", "a supernode of 2 ranks"),
        pytest.param("no-peer-access", "stacked servers: 2 islands {0}, {1}", marks=pytest.mark.soak),
        ("hosts", "stacked servers: 2 islands {0}, {1}"),
    ],
)
def test_the_last_line_says_what_the_world_is_and_the_page_stands_alone(tmp_path, few_cases, world, last):
    if world != "mapped" and not is_available(world):
        pytest.skip(f"world {world} cannot be made here")
    code, lines, page = run(tmp_path, world)
    assert code == 0
    assert lines[-1].startswith(last + "; ")
    assert last in page
    assert any("litmus MP" in line for line in lines) == (world == "mapped")
    rows = read_json(tmp_path / "rows.json").rows
    assert sum(found.errors for found in rows) == 0
    assert any(found.case == "latency.message" and found.p50_us for found in rows)
    assert "<svg" in page
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r'(src|href)="(https?:)?//', page)


@pytest.mark.soak
def test_four_ranks_on_fewer_cores_are_a_supernode_too(tmp_path, few_cases):
    code, lines, _ = run(tmp_path, "mapped", ranks=4)
    assert code == 0
    assert lines[-1].startswith("a supernode of 4 ranks; 12 of 12 pairs")


def test_without_ucx_and_compiler_it_says_what_is_missing(tmp_path, few_cases, monkeypatch):
    monkeypatch.setenv("UMEM_UCX", "/nonsense/libucp.so.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    limits.load.cache_clear()
    code, lines, page = run(tmp_path, "mapped")
    assert code == 0
    assert lines[-1].startswith("a supernode of 2 ranks; 2 of 2 pairs")
    text = "\n".join(lines)
    assert "no C compiler" in text
    assert "UCX" in text
    assert "What this machine does by itself" not in text
    assert "Not measured here" in page


def test_what_is_shown_is_escaped():
    machine = {"host": "<b>", "memory": "1G", "version": "0", "commit": ""}
    section = report.Section("a & b", "c < d", ("x",), (("<script>",),))
    page = report.html(Results(machine, ()), [section], Conclusion("e > f", True, ()), "mapped", 1.0)
    assert "<script>" not in page
    assert "a &amp; b" in page
