"""`umem verdict`: is this one memory, or a stack of servers? Under 90 s once all is compiled, with the evidence.

Cases give the numbers, evidence.py decides, sections.py shows. Every case stops at its own budget; a test adds the
budgets up. Cases that could not be measured are named, and give an exit code of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from umem import limits
from umem.files.users import require_writable

from .. import command
from ..cases import registry
from ..command import INCOMPLETE_CODE, SUCCESS_CODE, WRONG_CODE
from ..harness.case import Case
from ..harness.driver import Bench
from ..harness.rows import Results, Row, Status, write_json
from ..harness.side import Options
from ..harness.timing import Depth
from ..prepare import prepare
from . import report as page
from .evidence import Conclusion, Speed, conclude, gather
from .sections import WORKLOADS, Findings, describe

LIMIT_S = 90.0
EVIDENCE_BUDGET_S = 6.0  # matrix and litmus tests
STARTUP_BUDGET_S = 24.0  # the command and its ranks
_CALL_TIMEOUT_S = 35.0  # of one block, however stuck: longer than a run of ucx_perftest may take
REPORT_S = 4.0  # showing and drawing, part of the start-up's budget
MIN_RANKS, _MAX_RANKS = 2, 8

VERDICT_ROUNDS, SAMPLES = 12, 20
SETUP_SHARE = 0.4  # of a case's budget: making its memory, and warming up

MEASURED = (
    "limits.bandwidth",
    "limits.latency",
    "latency.line",
    "latency.chase",
    "latency.message",
    "latency.rma",
    "atomics.fetch_add",
    "bandwidth.copy",
    "bandwidth.copy_cached",
    "bandwidth.message",
    "message_rate.doorbell",
    "message_rate.window",
    "agent.busy_home",
    "anatomy",
)
_LATENCY, _RATE = (
    ("latency.line", "latency.chase", "atomics.fetch_add"),
    ("bandwidth.copy", "bandwidth.copy_cached"),
)
COMPARED_PEERS = ("ucx_perftest",)  # the message path is held against it, never taken on trust


def cases() -> list[type[Case]]:
    """The cases of the verdict, in the order of its sections."""
    return [registry.find(key) for key in MEASURED + WORKLOADS]


def budget_s() -> float:
    """Seconds that the verdict may take after set-up."""
    return STARTUP_BUDGET_S + EVIDENCE_BUDGET_S + sum(case.budget_s for case in cases())


def default_ranks() -> int:
    """A rank a core, from 2 to 8."""
    return min(max(len(limits.usable_cores()), MIN_RANKS), _MAX_RANKS)


def run(
    console: Console, ranks: int | None, world: str, report: Path, json_file: Path | None, seed: int
) -> int:
    """Compile, measure, show, conclude.

    Returns WRONG_CODE where data was wrong or a case failed, else INCOMPLETE_CODE where a case that has a meaning here
    could not be measured, else SUCCESS_CODE, whatever the conclusion is.
    """
    outputs = command.Outputs(json=json_file)
    require_writable(report)
    options = Options(ranks=ranks or default_ranks(), world=world, peers=COMPARED_PEERS, seed=seed)
    prepare(world)
    begin = time.monotonic()
    with Bench(options, _CALL_TIMEOUT_S) as bench:
        console.print(f"# measuring {options.ranks} ranks, world {world}", highlight=False)
        findings = measure(bench, begin + LIMIT_S - REPORT_S)
        bench.machine["ping_pong_ns"] = findings.ping_pong_ns
    elapsed_s = time.monotonic() - begin
    conclusion = judge(findings)
    sections = describe(findings, options)
    whole = Results(bench.machine, tuple(findings.rows), findings.notes)
    page.show(console, whole, sections, conclusion, options.world, findings.ping_pong_ns, elapsed_s)
    report.write_text(page.html(whole, sections, conclusion, options.world, elapsed_s))
    if outputs.json:
        write_json(outputs.json, whole)
    return exit_code(findings, conclusion)


def judge(findings: Findings) -> Conclusion:
    """The conclusion from the evidence, with failed and missing cases among its reasons."""
    conclusion = conclude(findings.evidence, speed(findings))
    failed = [row for row in findings.rows if row.status == Status.ERROR]
    reasons = list(conclusion.reasons)
    if len(limits.usable_cores()) == 1 and findings.evidence.litmus:
        reasons.append("on one core, where ranks take turns")
    if failed:
        reasons.append(failure(failed, len(findings.rows)))
    if names := unmeasured(findings):
        reasons.append(f"INCOMPLETE: not measured, or not wholly: {', '.join(names)} (reasons above)")
    return replace(conclusion, reasons=tuple(reasons))


def speed(findings: Findings) -> Speed:
    """Whether the latency and the rate of umem's own loads and stores were measured."""
    own = {
        row.case.partition("[")[0]
        for row in findings.rows
        if row.semantics == "load_store" and row.peer is None and row.p50_us is not None
    }
    return Speed(has_latency=not own.isdisjoint(_LATENCY), has_rate=not own.isdisjoint(_RATE))


def failure(failed: Sequence[Row], num_rows: int) -> str:
    """The reason in the last line for rows that failed."""
    names = ", ".join(dict.fromkeys(row.case.partition("[")[0] for row in failed))
    return f"but {len(failed)} of {num_rows} rows FAILED: {names}"


def unmeasured(findings: Findings) -> list[str]:
    """Cases of which a part has a meaning here and could not be measured; their notes give the reason."""
    return [
        key
        for key, results in findings.results.items()
        if any(note.startswith("waived: ") for note in results.notes)
    ]


def exit_code(findings: Findings, conclusion: Conclusion) -> int:
    """See `run`."""
    is_wrong = (
        any(row.status == Status.ERROR for row in findings.rows) or not findings.evidence.is_one_address
    )
    if is_wrong or findings.evidence.is_forbidden:
        return WRONG_CODE
    return SUCCESS_CODE if conclusion.is_shown and not unmeasured(findings) else INCOMPLETE_CODE


def measure(bench: Bench, end: float) -> Findings:
    """Evidence first, then every case within its budget, none that could not end by `end` (monotonic).

    Pairs of ranks are measured in a world of two.
    """
    ping_pong_ns = command.core_ping_pong_ns()
    evidence = gather(bench.ranks(), bench.options.seed)
    bench.options = replace(bench.options, ranks=min(bench.options.ranks, 2))
    results = {}
    for case in cases():
        if time.monotonic() + case.budget_s > end:
            note = (
                f"waived: {case.key}: {LIMIT_S:.0f} s are over; on this machine run `umem bench {case.key}`"
            )
            results[case.key] = Results(bench.machine, (), (note,))
        else:
            results[case.key] = bench.run(case(), depth_of(case), brief=True)
    return Findings(evidence, results, ping_pong_ns + command.core_ping_pong_ns())


def depth_of(case: type[Case]) -> Depth:
    """The depth of a case in the verdict: as its budget allows."""
    time_limit_s = case.budget_s * (1 - SETUP_SHARE)
    return Depth(VERDICT_ROUNDS, min(SAMPLES, case.most_samples), time_limit_s=time_limit_s, min_rounds=1)
