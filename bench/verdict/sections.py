"""The sections of the verdict: a table for each question to the machine.

A section whose cases have no rows here is absent: nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from umem.units import format_size

from ..harness.rows import Results, Row
from ..harness.side import Options
from ..harness.stats import Stretch, stretches
from ..output import plot, table
from .evidence import SHAPES, Evidence
from .report import Section

WORKLOADS = ("gather_sum", "reduce", "exchange")
_MEMORY, MESSAGES = ("load_store",), ("message", "staged")


@dataclass(frozen=True)
class Findings:
    """All evidence and results of a verdict."""

    evidence: Evidence
    results: dict[str, Results]  # by case
    ping_pong_ns: tuple[float, ...]  # before and after the cases

    @property
    def rows(self) -> list[Row]:
        """Rows of all cases."""
        return [row for results in self.results.values() for row in results.rows]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all cases, each once."""
        return tuple(dict.fromkeys(note for results in self.results.values() for note in results.notes))


def describe(findings: Findings, options: Options) -> list[Section]:
    """The sections that have rows, in the order of the report."""
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
    """The matrix of routes, rank by home."""
    homes = [f"home {rank}" for rank in range(evidence.num_ranks)]
    rows = [
        (f"rank {rank}", *("own" if rank == home else route or "WRONG" for home, route in enumerate(row)))
        for rank, row in enumerate(evidence.routes)
    ]
    meaning = f"how each rank reaches a byte at each home; {table.MEANING[world]}"
    return Section("How each byte is reached", meaning, ("", *homes), tuple(rows))


def address_section(evidence: Evidence) -> Section:
    """The check that an address is one for all ranks, and the litmus tests."""
    found = "right" if evidence.is_one_address else "WRONG"
    num_words = evidence.num_ranks**2
    promise = "every rank reads what every home stored, and adds 1 there"
    rows = [("one address", promise, f"{num_words} words {found}")]
    for result in evidence.litmus:
        outcomes = ", ".join(f"{r0}{r1}: {count}" for (r0, r1), count in sorted(result.histogram.items()))
        counts = f"{result.num_forbidden} forbidden of {result.num_instances} ({outcomes})"
        rows.append((f"litmus {result.test}", SHAPES[result.test], f"{counts}: {result.conclusion}"))
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
    """The times of the five steps, beside one pass of loads and stores."""
    rows = measured_rows(findings, "anatomy")
    steps = [row for row in rows if "[" in row.case]
    if not rows:
        return None
    sizes = sorted({row.bytes for row in rows})
    names = list(dict.fromkeys(table.setting_of(row) for row in steps))
    wholes = [("staged", "all five, end to end"), ("load_store", "one pass of loads and stores")]
    lines = []
    for name in names:
        mine = [row for row in steps if table.setting_of(row) == name]
        lines.append((name, *(time_of(mine, size) for size in sizes)))
    for semantics, label in wholes:
        chosen = [row for row in rows if row.semantics == semantics and "[" not in row.case]
        if chosen:
            lines.append((label, *(time_of(chosen, size) for size in sizes)))
    heading = ("step", *(f"{format_size(size)} us" for size in sizes))
    meaning = "a strided slice of the peer's matrix wanted here: every step is a pass over the data"
    title = "What the five steps cost"
    return Section(title, meaning, heading, tuple(lines), figures=steps_figures(rows, steps) if steps else ())


def steps_figures(rows: Sequence[Row], steps: Sequence[Row]) -> tuple[Figure, ...]:
    """One picture of the largest slice."""
    size = max(row.bytes for row in steps)
    memory = [row for row in rows if row.bytes == size and row.semantics == "load_store"]
    parts = [(table.setting_of(row), row.p50_us or 0.0) for row in steps if row.bytes == size]
    memory_us = memory[0].p50_us if memory else None
    return (plot.steps_figure(parts, memory_us, f"a slice of {format_size(size)}"),)


def time_of(rows: Iterable[Row], size: int) -> str:
    """Median of the row of this size."""
    return next((table.number(row.p50_us) for row in rows if row.bytes == size), "-")


def crossover_section(findings: Findings) -> Section | None:
    """Whether memory or messages are ahead, by workload and size."""
    lines = []
    for key in WORKLOADS:
        rows = measured_rows(findings, key)
        memory, message = fastest(rows, _MEMORY), fastest(rows, MESSAGES)
        sizes = sorted(set(memory) & set(message))
        if len(sizes) < 2:
            continue
        times = [np.array([side[size] for size in sizes]) for side in (memory, message)]
        leads = [lead(memory[size], message[size], size) for size in (sizes[0], sizes[-1])]
        lines.append((key, *leads, stretches_text(stretches(np.array(sizes, float), *times), sizes)))
    if not lines:
        return None
    heading = ("workload", "smallest", "largest", "who is ahead where")
    meaning = "memory: loads and stores in the peer's memory; messages: the faster of message and staged"
    return Section("Memory or messages", meaning, heading, tuple(lines))


def lead(memory_us: float, message_us: float, size: int) -> str:
    """The side that is ahead at this size, and by how much."""
    side, ratio = (
        ("memory", message_us / memory_us)
        if memory_us <= message_us
        else ("messages", memory_us / message_us)
    )
    return f"{side} {ratio:.3g} x at {format_size(size)}"


def fastest(rows: Sequence[Row], semantics: Sequence[str]) -> dict[int, float]:
    """By size, the best time of umem's own rows of these semantics."""
    best: dict[int, float] = {}
    for row in rows:
        if row.peer is None and row.semantics in semantics and row.p50_us is not None:
            best[row.bytes] = min(row.p50_us, best.get(row.bytes, row.p50_us))
    return best


def stretches_text(found: Sequence[Stretch], sizes: Sequence[int]) -> str:
    """Stretches of sizes in words."""
    names = ["memory" if stretch.is_first_ahead else "messages" for stretch in found]
    if len(found) == 1:
        return f"{names[0]} at every size from {format_size(sizes[0])} to {format_size(sizes[-1])}"
    ends = [f" to about {format_size(round(stretch.begin))}" for stretch in found[1:]]
    return ", ".join(name + end for name, end in zip(names, [*ends, " above"], strict=True))


def workload_section(findings: Findings) -> Section | None:
    """Each workload in each semantics."""
    rows = [row for key in WORKLOADS for row in measured_rows(findings, key)]
    if not rows:
        return None
    meaning = "one operation, in every semantics that makes sense"
    section = rows_section("Workloads", meaning, findings, WORKLOADS)
    assert section is not None
    return replace(section, figures=(plot.sweep_figure(rows),))
