"""`umem verdict`: is this one memory, or a stack of servers? Under 90 s, with the evidence.

Cases give the numbers, `evidence` decides, sections show. A section whose cases have nothing to say here
is absent: nothing is estimated. Every case stops at its own budget; a test adds the budgets up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from umem import config
from umem.errors import ConfigError, FabricMissing
from umem.units import format_size

from . import command, plot, registry, table
from . import report as page
from .case import Case, Options
from .driver import Bench
from .evidence import SHAPES, Evidence, conclude, gather
from .report import Section
from .rows import Results, Row, Status, write_json
from .stats import crossover
from .timing import Depth

LIMIT_S = 90.0
EVIDENCE_BUDGET_S = 6.0  # matrix and litmus tests
STARTUP_BUDGET_S = 24.0  # the command, its ranks, and cold kernels on two cores
REPORT_S = 4.0  # showing and drawing, part of the start-up's budget
MIN_RANKS, MAX_RANKS = 2, 8

ROUNDS, SAMPLES = 12, 20
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
WORKLOADS = ("gather_sum", "reduce", "exchange")
MEMORY, MESSAGES = ("load_store",), ("message", "staged")


@dataclass(frozen=True)
class Findings:
    """Everything that was measured, before it is shown."""

    evidence: Evidence
    results: dict[str, Results]  # by case
    ping_pong_ns: tuple[float, ...]  # before and after the cases


def cases() -> list[type[Case]]:
    """What the verdict runs, in the order of its sections."""
    return [registry.find(key) for key in MEASURED + WORKLOADS]


def budget_s() -> float:
    """Seconds that the verdict may take after set-up."""
    return STARTUP_BUDGET_S + EVIDENCE_BUDGET_S + sum(case.budget_s for case in cases())


def default_ranks() -> int:
    """A rank a core, from 2 to 8."""
    return min(max(len(config.usable_cores()), MIN_RANKS), MAX_RANKS)


def run(
    console: Console, ranks: int | None, world: str, report: Path, json_file: Path | None, seed: int
) -> int:
    """Measure, show, conclude; 0 whatever the conclusion is, 1 where data was wrong or a case failed."""
    outputs = command.Outputs(json=json_file)
    if not report.parent.is_dir():
        raise ConfigError(f"{report}: there is no folder {report.parent}")
    begin = time.monotonic()
    options = Options(ranks=ranks or default_ranks(), world=world, peers=peers_here(), seed=seed)
    with Bench(options) as bench:
        console.print(f"# measuring {options.ranks} ranks, world {world}", highlight=False)
        findings = measure(bench, begin + LIMIT_S - REPORT_S)
        bench.machine["ping_pong_ns"] = findings.ping_pong_ns
    elapsed_s = time.monotonic() - begin
    sections = describe(findings, options)
    rows = [row for results in findings.results.values() for row in results.rows]
    failed = [row for row in rows if row.status == Status.ERROR]
    conclusion = conclude(findings.evidence)
    if failed:
        conclusion = replace(conclusion, reasons=(*conclusion.reasons, failure(failed, len(rows))))
    notes = tuple(dict.fromkeys(note for results in findings.results.values() for note in results.notes))
    whole = Results(bench.machine, tuple(rows), notes)
    page.show(console, whole, sections, conclusion, options.world, findings.ping_pong_ns, elapsed_s)
    report.write_text(page.html(whole, sections, conclusion, options.world, elapsed_s))
    if outputs.json:
        write_json(outputs.json, whole)
    return int(bool(failed) or not findings.evidence.is_one_address)


def failure(failed: Sequence[Row], num_rows: int) -> str:
    """What the last line says of rows that failed."""
    names = ", ".join(dict.fromkeys(row.case.partition("[")[0] for row in failed))
    return f"but {len(failed)} of {num_rows} rows FAILED: {names}"


def peers_here() -> tuple[str, ...]:
    """ucx_perftest where there is a libucp: the message path is held against it, never taken on trust."""
    from umem.fabric.ucx import library, tools

    try:
        library.load()
        tools.perftest_command()
    except FabricMissing:
        return ()
    return ("ucx_perftest",)


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
    """How deep a case samples in the verdict: as its budget allows."""
    time_limit_s = case.budget_s * (1 - SETUP_SHARE)
    return Depth(ROUNDS, min(SAMPLES, case.most_samples), time_limit_s=time_limit_s, min_rounds=1)


# --- sections


def describe(findings: Findings, options: Options) -> list[Section]:
    """The sections that have something to say."""
    made = [
        reach_section(findings.evidence, options.world),
        address_section(findings.evidence),
        rows_section(
            "What this machine does by itself",
            "one core and two cores in C: everything below is held against these",
            findings,
            ("limits.bandwidth", "limits.latency"),
        ),
        rows_section(
            "Latency",
            "time of one access, the next one waiting for it",
            findings,
            ("latency.line", "latency.chase", "latency.message", "latency.rma", "atomics.fetch_add"),
        ),
        rows_section(
            "Bandwidth",
            "one rank reads the peer's memory, or gets its messages",
            findings,
            ("bandwidth.copy", "bandwidth.copy_cached", "bandwidth.message"),
        ),
        rows_section(
            "Small messages a second",
            "time a message = 1 / rate: stores with a doorbell for every few, or messages in flight",
            findings,
            ("message_rate.doorbell", "message_rate.window"),
        ),
        rows_section(
            "A busy home", "rank 1 holds its GIL for 5 s; its agent answers", findings, ("agent.busy_home",)
        ),
        steps_section(findings),
        crossover_section(findings),
        workload_section(findings),
    ]
    return [section for section in made if section is not None]


def reach_section(evidence: Evidence, world: str) -> Section:
    """The matrix."""
    homes = [f"home {rank}" for rank in range(evidence.num_ranks)]
    rows = [
        (f"rank {rank}", *("own" if rank == home else way or "WRONG" for home, way in enumerate(row)))
        for rank, row in enumerate(evidence.ways)
    ]
    meaning = f"how each rank reaches a byte at each home; {table.MEANING[world]}"
    return Section("How each byte is reached", meaning, ("", *homes), tuple(rows))


def address_section(evidence: Evidence) -> Section:
    """One address, and coherence."""
    found = "right" if evidence.is_one_address else "WRONG"
    num_words = evidence.num_ranks**2
    promise = "every rank reads what every home stored, and adds 1 there"
    rows = [("one address", promise, f"{num_words} words {found}")]
    for result in evidence.litmus:
        outcomes = ", ".join(f"{r0}{r1}: {count}" for (r0, r1), count in sorted(result.histogram.items()))
        told = f"{result.num_forbidden} forbidden of {result.num_instances} ({outcomes})"
        rows.append((f"litmus {result.test}", SHAPES[result.test], f"{told}: {result.conclusion}"))
    meaning = "litmus: compiled loads and stores of ranks 0 and 1 on raw mapped words, outcomes r0 r1 counted"
    return Section("One address, one value", meaning, ("test", "what must hold", "found"), tuple(rows))


def rows_section(title: str, meaning: str, findings: Findings, keys: Sequence[str]) -> Section | None:
    """Rows of some cases, as `umem bench` shows them."""
    rows = [row for key in keys for row in measured_rows(findings, key)]
    if not rows:
        return None
    heading = ("case", *(name for name, _ in table.HEADINGS[:-1]))
    lines = tuple((row.case.partition("[")[0], *table.cells(row)[:-1]) for row in rows)
    return Section(title, meaning, heading, lines)


def measured_rows(findings: Findings, key: str) -> list[Row]:
    """Rows of a case that have a time."""
    results = findings.results.get(key)
    return [row for row in results.rows if row.p50_us is not None] if results else []


def steps_section(findings: Findings) -> Section | None:
    """The five steps."""
    rows = measured_rows(findings, "anatomy")
    steps = [row for row in rows if "[" in row.case]
    if not steps:
        return None
    sizes = sorted({row.bytes for row in steps})
    names = list(dict.fromkeys(table.what(row) for row in steps))
    wholes = [("staged", "all five, end to end"), ("load_store", "one pass of loads and stores")]
    lines = []
    for name in names:
        mine = [row for row in steps if table.what(row) == name]
        lines.append((name, *(time_of(mine, size) for size in sizes)))
    for semantics, label in wholes:
        chosen = [row for row in rows if row.semantics == semantics and "[" not in row.case]
        if chosen:
            lines.append((label, *(time_of(chosen, size) for size in sizes)))
    heading = ("step", *(f"{format_size(size)} us" for size in sizes))
    meaning = "a strided slice of the peer's matrix wanted here: every step is a pass over the data"
    title = "What the five steps cost"
    return Section(title, meaning, heading, tuple(lines), figures=steps_figures(rows, steps))


def steps_figures(rows: Sequence[Row], steps: Sequence[Row]) -> tuple[Figure, ...]:
    """One picture of the largest slice."""
    size = max(row.bytes for row in steps)
    memory = [row for row in rows if row.bytes == size and row.semantics == "load_store"]
    parts = [(table.what(row), row.p50_us or 0.0) for row in steps if row.bytes == size]
    memory_us = memory[0].p50_us if memory else None
    return (plot.steps_figure(parts, memory_us, f"a slice of {format_size(size)}"),)


def time_of(rows: Iterable[Row], size: int) -> str:
    """Median of the row of this size."""
    return next((table.number(row.p50_us) for row in rows if row.bytes == size), "-")


def crossover_section(findings: Findings) -> Section | None:
    """Where load/store stops to win."""
    lines = []
    for key in WORKLOADS:
        rows = measured_rows(findings, key)
        memory, message = fastest(rows, MEMORY), fastest(rows, MESSAGES)
        sizes = sorted(set(memory) & set(message))
        if len(sizes) < 2:
            continue
        times = [np.array([side[size] for size in sizes]) for side in (memory, message)]
        at = crossover(np.array(sizes, float), *times)
        leads = [f"{message[s] / memory[s]:.2g} x at {format_size(s)}" for s in (sizes[0], sizes[-1])]
        lines.append((key, *leads, told(at, sizes)))
    if not lines:
        return None
    heading = ("workload", "memory ahead by", "memory ahead by", "messages begin to win")
    meaning = "memory: loads and stores in the peer's memory; messages: the faster of message and staged"
    return Section("Where load/store stops and messages begin", meaning, heading, tuple(lines))


def fastest(rows: Sequence[Row], semantics: Sequence[str]) -> dict[int, float]:
    """By size, the best time of umem's own rows of these semantics."""
    best: dict[int, float] = {}
    for row in rows:
        if row.peer is None and row.semantics in semantics and row.p50_us is not None:
            best[row.bytes] = min(row.p50_us, best.get(row.bytes, row.p50_us))
    return best


def told(size: float | None, sizes: Sequence[int]) -> str:
    """A crossover in words."""
    if size is None:
        return f"not up to {format_size(sizes[-1])}"
    if size <= sizes[0]:
        return f"at every size from {format_size(sizes[0])}"
    return f"from about {format_size(round(size))}"


def workload_section(findings: Findings) -> Section | None:
    """Each workload in each semantics."""
    rows = [row for key in WORKLOADS for row in measured_rows(findings, key)]
    if not rows:
        return None
    meaning = "one operation, in every semantics that makes sense"
    section = rows_section("Workloads", meaning, findings, WORKLOADS)
    assert section is not None
    return replace(section, figures=(plot.sweep_figure(rows),))
