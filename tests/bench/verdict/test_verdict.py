"""The verdict runs in every world, concludes what the world is, and fits its time by its budgets."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from tests.bench.examples import row
from umem import limits
from umem.bench.cases import registry
from umem.bench.harness import hardware
from umem.bench.harness.driver import Bench
from umem.bench.harness.rows import Results, Status, read_json
from umem.bench.harness.side import Options, Point
from umem.bench.harness.timing import Depth
from umem.bench.verdict import report, sections, verdict
from umem.bench.verdict.evidence import FORBIDDEN, LOAD_STORE, Conclusion, Evidence, LitmusResult, gather
from umem.errors import UmemError
from umem.world.launcher import launch

FEW = ("latency.line", "latency.message", "bandwidth.copy_cached", "exchange")


def test_the_budgets_add_up_to_less_than_90_seconds():
    assert verdict.budget_s() <= verdict.LIMIT_S == 90.0
    assert all(case.budget_s > 0 for case in verdict.cases())


def test_every_case_of_the_verdict_is_shown_in_a_section():
    rows = {
        key: Results({}, (row(case=key), row(case=key, semantics="message", bytes=64)))
        for key in verdict.MEASURED + sections.WORKLOADS
        if key != "anatomy"
    }
    found = sections.Findings(Evidence([[LOAD_STORE]], [[1]]), rows, ())
    shown = {line[0] for section in sections.describe(found, Options()) for line in section.lines}
    assert set(rows) <= shown


def test_a_section_whose_cases_found_nothing_is_absent():
    found = sections.Findings(Evidence([[LOAD_STORE]], [[1]]), {}, ())
    titles = [section.title for section in sections.describe(found, Options())]
    assert titles == ["How each byte is reached", "One address, one value"]


def test_the_distance_of_the_cores_is_told_of_both_ends(monkeypatch):
    found = iter(((348.0,), (99.0,)))
    monkeypatch.setattr(verdict.command, "core_ping_pong_ns", lambda: next(found))
    monkeypatch.setattr(verdict, "gather", lambda ranks, seed: Evidence([[LOAD_STORE]], [[1]]))
    monkeypatch.setattr(verdict, "cases", list)
    assert verdict.measure(Bench(Options()), end=0.0).ping_pong_ns == (348.0, 99.0)


MEMORY_US = (1.0, 10.0, 100.0)  # at 64, 4K and 64K


@pytest.mark.parametrize(
    ("message_us", "smallest", "largest", "where"),
    [
        (
            (4.0, 12.0, 150.0),
            "memory 4 x at 64",
            "memory 1.5 x at 64K",
            "memory at every size from 64 to 64K",
        ),
        (
            (0.5, 5.0, 80.0),
            "messages 2 x at 64",
            "messages 1.25 x at 64K",
            "messages at every size from 64 to 64K",
        ),
        (
            (4.0, 12.0, 50.0),
            "memory 4 x at 64",
            "messages 2 x at 64K",
            r"memory to about [\d.]+K, messages above",
        ),
        (
            (0.8, 12.0, 150.0),
            "messages 1.25 x at 64",
            "memory 1.5 x at 64K",
            r"messages to about \d+, memory above",
        ),
        (
            (4.0, 5.0, 150.0),
            "memory 4 x at 64",
            "memory 1.5 x at 64K",
            r"memory to about [\d.]+K?, messages to about [\d.]+K, memory above",
        ),
    ],
)
def test_who_is_ahead_where_is_told(message_us, smallest, largest, where):
    rows = [
        row(case="exchange", semantics=semantics, bytes=size, p50_us=time_us)
        for semantics, times in {"load_store": MEMORY_US, "message": message_us}.items()
        for size, time_us in zip((64, 4096, 65536), times, strict=True)
    ]
    found = sections.Findings(Evidence([[LOAD_STORE]], [[1]]), {"exchange": Results({}, tuple(rows))}, ())
    section = sections.crossover_section(found)
    assert section is not None
    (line,) = section.lines
    assert line[:3] == ("exchange", smallest, largest)
    assert re.fullmatch(where, line[3])


@pytest.fixture
def few_cases(monkeypatch):
    monkeypatch.setattr(verdict, "cases", lambda: [registry.find(key) for key in FEW])
    monkeypatch.setattr(verdict, "COMPARED_PEERS", ())
    monkeypatch.setattr(verdict, "prepare", lambda world: None)
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


MIXED = ("atomics.fetch_add", "reduce", "anatomy")  # cases with rows of memory and rows of UCX


def test_without_ucx_and_compiler_it_says_what_is_missing(tmp_path, few_cases, monkeypatch):
    monkeypatch.setattr(verdict, "cases", lambda: [registry.find(key) for key in FEW + MIXED])
    monkeypatch.setattr(verdict, "VERDICT_ROUNDS", 1)
    monkeypatch.setenv("UMEM_UCX", "/nonsense/libucp.so.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    hardware.load.cache_clear()
    code, lines, page = run(tmp_path, "mapped")
    assert code == verdict.INCOMPLETE_CODE
    assert lines[-1].startswith("a supernode of 2 ranks; 2 of 2 pairs")
    assert "INCOMPLETE: not measured, or not wholly: latency.line, latency.message, " in lines[-1]
    rows = read_json(tmp_path / "rows.json").rows
    assert not any(row.status == Status.ERROR for row in rows)
    for key in MIXED:
        mine = [row for row in rows if row.case.partition("[")[0] == key]
        assert {row.status for row in mine if row.semantics == "load_store"} == {Status.PASSED}
        assert {row.status for row in mine if row.semantics != "load_store"} == {Status.WAIVED}
    assert any(line.startswith("one pass of loads and stores") for line in lines)
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


def test_no_time_left_is_named_and_no_success(tmp_path, few_cases, monkeypatch):
    monkeypatch.setattr(verdict, "LIMIT_S", 0.0)
    code, lines, page = run(tmp_path, "mapped")
    assert code == verdict.INCOMPLETE_CODE
    lacks = "the latency of loads and stores, the rate of loads and stores"
    assert lines[-1].startswith(f"no verdict: 2 ranks reach each other's memory, but not shown: {lacks}; ")
    assert lines[-1].endswith(f"{', '.join(FEW)} (reasons above)")
    for key in FEW:
        assert any(line.startswith(f"# waived: {key}: ") for line in lines)
        assert f"<li>{key}: " in page


EVIDENCE = Evidence(
    [[LOAD_STORE] * 2] * 2,
    [[2, 2]] * 2,
    tuple(LitmusResult(test, {(0, 1): 6, (1, 1): 4}) for test in FORBIDDEN),
)


@pytest.mark.parametrize(
    ("evidence", "changes", "note", "code"),
    [
        (EVIDENCE, {}, "no meaning: latency.line: needs 2 cores and has 1", 0),
        (EVIDENCE, {}, "remark: latency.line: slow", 0),
        (EVIDENCE, {}, "waived: latency.line, c: no compiler", 3),
        (EVIDENCE, {"status": "Error"}, "error: latency.line: no", 1),
        (EVIDENCE, {"status": "Error"}, "waived: latency.line, c: no compiler", 1),
        (replace(EVIDENCE, sums=[[2, 1]] * 2), {}, "remark: x: y", 1),
        (replace(EVIDENCE, litmus=()), {}, "remark: x: y", 3),
        (replace(EVIDENCE, litmus=(LitmusResult("MP", {(1, 0): 1}),)), {}, "remark: x: y", 1),
    ],
)
def test_the_exit_code_is_1_for_wrong_data_and_3_for_what_is_missing(evidence, changes, note, code):
    rows = (row(**changes), row(case="bandwidth.copy"))
    found = sections.Findings(evidence, {"latency.line": Results({}, rows, (note,))}, ())
    conclusion = verdict.judge(found)
    assert verdict.exit_code(found, conclusion) == code
    assert ("INCOMPLETE: not measured, or not wholly: latency.line" in conclusion.last_line) == (
        "waived" in note
    )


def test_one_core_is_told_of_beside_the_litmus_tests(monkeypatch):
    monkeypatch.setattr(limits, "usable_cores", lambda: [0])
    found = sections.Findings(EVIDENCE, {}, ())
    assert "instances forbidden; on one core, where ranks take turns" in verdict.judge(found).last_line


def test_what_needs_two_cores_has_no_meaning_on_one(monkeypatch):
    monkeypatch.setattr(limits, "usable_cores", lambda: [0])
    with Bench(Options(peers=("ucx_perftest",))) as bench:
        results = bench.run(registry.find("latency.line")(), brief=True)
        assert results.notes == ("no meaning: latency.line: needs 2 cores and has 1",)
        results = bench.measure_point(registry.find("latency.message")(), Point(8), Depth(1, 2, 0))
        assert results.notes == ("no meaning: latency.message, ucx_perftest: needs 2 cores and has 1",)
        assert [found.status for found in results.rows] == ["Passed", "Waived"]


def test_all_is_compiled_before_the_clock_starts(tmp_path, few_cases, monkeypatch):
    began = []
    monkeypatch.setattr(verdict, "prepare", lambda world: began.append((world, time.monotonic())))
    monkeypatch.setattr(
        verdict, "measure", lambda bench, end: began.append(end) or sections.Findings(EVIDENCE, {}, ())
    )
    run(tmp_path, "mapped")
    (world, prepared_at), end = began
    assert world == "mapped"
    assert end - prepared_at >= verdict.LIMIT_S - verdict.REPORT_S
