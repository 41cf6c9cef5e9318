"""The README's short verdict is made of what the verdict prints today."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import write_verdict
from rich.console import Console

from tests.bench.examples import row
from umem.bench.harness.rows import Results
from umem.bench.harness.side import Options
from umem.bench.verdict import report, sections
from umem.bench.verdict.evidence import FORBIDDEN, LOAD_STORE, Evidence, LitmusResult, conclude
from umem.units import parse_size

MACHINE = {"version": "1", "commit": "abc", "host": "h", "memory": "1G", "numba": "0"}
STEPS = ("copy_out", "pack", "transfer", "unpack", "copy_in")
SIZES = (8, 4096, 1 << 20)


def findings():
    """Rows of every case that the short form shows, and of some that it does not."""
    results = {
        case: (row(case=case, bytes=parse_size(size)), row(case=case, bytes=parse_size(size), peer=other))
        for (case, size), other in write_verdict.HEADLINES.items()
    }
    results["limits.latency"] = (row(case="limits.latency[line]", peer="c"),)
    results["anatomy"] = tuple(
        row(case=f"anatomy[{step}]", semantics="staged", bytes=size) for size in SIZES for step in STEPS
    )
    for workload in sections.WORKLOADS:
        results[workload] = tuple(
            row(case=workload, semantics=semantics, bytes=size, p50_us=size**power)
            for size in SIZES
            for semantics, power in {"load_store": 1.0, "message": 1.1}.items()
        )
    litmus = tuple(LitmusResult(test, {(0, 1): 60, (1, 1): 40}) for test in FORBIDDEN)
    evidence = Evidence([[LOAD_STORE] * 2] * 2, [[2, 2], [2, 2]], litmus)
    return sections.Findings(
        evidence, {key: Results(MACHINE, rows) for key, rows in results.items()}, (99.0,)
    )


def printed(found, failed=""):
    text = io.StringIO()
    conclusion = conclude(found.evidence)
    conclusion = replace(conclusion, reasons=(*conclusion.reasons, *([failed] if failed else [])))
    results = Results(MACHINE, (), ("waived: x: y",))
    report.show(
        Console(file=text, width=160),
        results,
        sections.describe(found, Options()),
        conclusion,
        "mapped",
        found.ping_pong_ns,
        1.0,
    )
    return text.getvalue()


def test_the_short_form_has_what_a_newcomer_wants_and_fits_a_screen():
    lines = write_verdict.short(printed(findings()))
    text = "\n".join(lines)
    assert len(lines) <= write_verdict.MAX_LINES < 45
    assert max(map(len, lines)) <= 120
    assert "rank 0                     load/store" not in text  # its own memory is `own`
    assert lines[5].split() == ["How", "each", "byte", "is", "reached", "home", "0", "home", "1"]
    assert lines[6].split() == ["rank", "0", "own", "load/store"]
    assert "4 words right" in text
    for case, _ in write_verdict.HEADLINES:
        assert sum(line.startswith(case) for line in lines) == 2
    assert all(any(line.startswith(step) for line in lines) for step in STEPS)
    assert all(any(line.startswith(workload) for line in lines) for workload in sections.WORKLOADS)
    assert "limits.latency" not in text
    assert "a supernode of 2 ranks; 2 of 2 pairs" in text


def test_what_was_not_measured_is_absent():
    found = findings()
    lines = write_verdict.short(printed(replace(found, results={})))
    assert not any("latency" in line or "steps" in line for line in lines)


FAILED, LACKING = "but 1 of 9 rows FAILED: anatomy", "INCOMPLETE: not measured: anatomy"


@pytest.mark.parametrize(
    "text", ["", "umem: no\n", printed(findings(), FAILED), printed(findings(), LACKING)]
)
def test_what_is_no_good_verdict_is_refused(text):
    with pytest.raises(SystemExit):
        write_verdict.short(text)


def test_the_page_is_filled_between_its_markers_only():
    page = "before\n<!-- verdict -->\nold\n<!-- /verdict -->\nafter\n"
    once = write_verdict.filled(page, ["a", "b"])
    assert once == ("before\n<!-- verdict -->\n```\n$ umem verdict\na\nb\n```\n<!-- /verdict -->\nafter\n")
    assert write_verdict.filled(once, ["a", "b"]) == once
    with pytest.raises(SystemExit, match="the page has no"):
        write_verdict.filled("no markers", [])


def test_the_readme_has_the_markers():
    assert "supernode" in write_verdict.filled(write_verdict.README.read_text(), ["a supernode"])
