"""The command `umem bench`: run cases or bars, compare results, list cases."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from umem.errors import ConfigError, UnknownName, Waived
from umem.files.users import require_writable

from . import bars
from .cases import registry
from .harness import hardware
from .harness.driver import Bench
from .harness.rows import Results, Row, Status, read_json, write_csv, write_json
from .harness.side import Options
from .harness.stats import Outcome
from .output import nccl, plot, table
from .output.compare import compare, print_comparison
from .prepare import prepare

PING_PONG_TRIES, PING_PONG_ROUNDS = 50, 5000  # a tenth of a second: longer than others keep a core


SUCCESS_CODE, WRONG_CODE, INCOMPLETE_CODE = 0, 1, 3


@dataclass(frozen=True)
class Outputs:
    """Files that the user wants beside the table."""

    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        require_writable(self.json, self.csv, self.plot)
        if self.plot is not None and self.plot.suffix not in plot.PICTURE_SUFFIXES:
            raise ConfigError(f"{self.plot}: a picture ends in {', '.join(plot.PICTURE_SUFFIXES)}")


def run_cases(
    console: Console, names: Sequence[str], options: Options, outputs: Outputs, form: str = "table"
) -> int:
    """Measure the cases of `names` and print their rows, in one of nccl.FORMATS.

    Returns WRONG_CODE where a row has an error, INCOMPLETE_CODE where all were waived, else SUCCESS_CODE.
    """
    chosen = registry.select(names)
    if form not in nccl.FORMATS:
        raise UnknownName("format", form, nccl.FORMATS)
    others = [case.key for case in chosen if not nccl.knows(case)]
    if form == "nccl" and others:
        raise ConfigError(f"{others[0]} has no columns of nccl-tests: umem bench collective --format nccl")
    rows: list[Row] = []
    notes: list[str] = []
    prepare(options.world)
    with Bench(options) as bench:
        ping_pong_ns = core_ping_pong_ns()
        table.print_header(console, Results(bench.machine, ()), options.world, ping_pong_ns)
        for case in chosen:
            found = bench.run(case())
            (nccl if form == "nccl" else table).print_case(console, case, found)
            rows += found.rows
            notes += found.notes
        ping_pong_ns += core_ping_pong_ns()
        machine = {**bench.machine, "ping_pong_ns": ping_pong_ns}
    table.print_footer(console, rows, ping_pong_ns)
    if outputs.json:
        write_json(outputs.json, Results(machine, tuple(rows), tuple(notes)))
    if outputs.csv:
        write_csv(outputs.csv, rows)
    if outputs.plot:
        plot.save(plot.sweep_figure(rows), outputs.plot)
    statuses = {row.status for row in rows}
    if Status.ERROR in statuses:
        return WRONG_CODE
    return SUCCESS_CODE if Status.PASSED in statuses else INCOMPLETE_CODE


def core_ping_pong_ns() -> tuple[float, ...]:
    """Round trip of a line between two cores, in C, best of PING_PONG_TRIES; empty where none succeeds.

    The least is the hardware's: other work on a core makes a round trip longer, never shorter.
    """
    found = []
    for _ in range(PING_PONG_TRIES):
        with suppress(Waived):
            found.append(hardware.line_round_trip_ns(PING_PONG_ROUNDS))
    return (min(found),) if found else ()


def show_comparison(console: Console, old: Path, new: Path) -> None:
    """Print two results of --json, row by row."""
    print_comparison(console, compare(read_json(old), read_json(new)))


def list_cases(console: Console) -> None:
    """Print every case and its sentence."""
    for case in registry.all_cases():
        console.print(f"{case.key:<24} {case.description}", highlight=False, markup=False, soft_wrap=True)


def tune_teams(console: Console, options: Options) -> int:
    """Measure the thresholds of teams, and keep them."""
    from . import tune  # loads a compiler

    prepare(options.world)
    return tune.run(console, options)


def run_bars(group: str, options: Options, json_file: Path | None) -> int:
    """Measure the bars of `group`, and print a line for each and nothing else on stdout.

    Returns WRONG_CODE where one fails, INCOMPLETE_CODE where all were waived, else SUCCESS_CODE. Reasons go to
    stderr, and into the JSON.
    """
    outputs = Outputs(json=json_file)
    results = []
    chosen = bars.select(group, bars.read())
    for world in dict.fromkeys(bar.world for bar in chosen):
        prepare(world)
    for result in bars.run(chosen, options):
        print(result.line(), flush=True)
        if result.reason:
            print(f"{result.id}: {result.reason}", file=sys.stderr, flush=True)
        results.append(result)
    if outputs.json:
        from .harness.host import machine

        document = {"machine": machine(), "bars": [result.as_dict() for result in results]}
        outputs.json.write_text(json.dumps(document, indent=1) + "\n")
    outcomes = {result.outcome for result in results}
    if Outcome.FAIL in outcomes:
        return WRONG_CODE
    return INCOMPLETE_CODE if outcomes == {Outcome.WAIVED} else SUCCESS_CODE
