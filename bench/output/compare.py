"""Two results of `umem bench --json`, row by row.

The rows are from different runs, so a difference may be the host's: a row is compared by its fraction of the
limit, which was measured in turns with it, and by its time where it has no limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from umem.errors import ConfigError
from umem.units import format_size

from ..harness.rows import Results, Row
from .table import number


@dataclass(frozen=True)
class Change:
    """A row that is in both results. `speedup` above 1: the new one is faster; None where a time is missing."""

    row: Row
    old_us: float | None
    new_us: float | None
    speedup: float | None
    by_limit: bool  # speedup is of the fraction of the limit: the host's drift is divided out


@dataclass(frozen=True)
class Comparison:
    """Rows in both results, and those in only one."""

    changes: tuple[Change, ...]
    only_old: tuple[Row, ...]
    only_new: tuple[Row, ...]
    same_machine: bool


def compare(old: Results, new: Results) -> Comparison:
    """Match the rows of two results by their identity. Raises ConfigError where no row is in both."""
    before = {row.identity: row for row in old.rows}
    after = {row.identity: row for row in new.rows}
    changes = tuple(_change(before[key], after[key]) for key in before if key in after)
    if not changes:
        raise ConfigError("the two results have no row in common")
    return Comparison(
        changes,
        tuple(row for key, row in before.items() if key not in after),
        tuple(row for key, row in after.items() if key not in before),
        old.machine.get("host") == new.machine.get("host"),
    )


def _change(old: Row, new: Row) -> Change:
    if old.fraction_of_limit and new.fraction_of_limit and old.limit_name == new.limit_name:
        return Change(new, old.p50_us, new.p50_us, new.fraction_of_limit / old.fraction_of_limit, True)
    if old.p50_us and new.p50_us:
        return Change(new, old.p50_us, new.p50_us, old.p50_us / new.p50_us, False)
    return Change(new, old.p50_us, new.p50_us, None, False)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The table of changes, the largest first."""
    if not comparison.same_machine:
        console.print("# the two results are from different machines", highlight=False)
    console.print("# speedup > 1: new is faster; * = against the limit of the same run", highlight=False)
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for name in ("case", "size", "semantics", "by", "old p50(us)", "new p50(us)", "speedup"):
        drawn.add_column(name, no_wrap=True)
    for change in sorted(comparison.changes, key=_distance, reverse=True):
        row = change.row
        speedup = number(change.speedup) + ("*" if change.by_limit else "")
        drawn.add_row(
            row.case,
            format_size(row.bytes),
            row.semantics,
            row.peer or "umem",
            number(change.old_us),
            number(change.new_us),
            speedup,
        )
    console.print(drawn)
    for title, rows in (("only old", comparison.only_old), ("only new", comparison.only_new)):
        _print_only(console, title, rows)


def _distance(change: Change) -> float:
    if not change.speedup:
        return 0.0
    return max(change.speedup, 1 / change.speedup)


def _print_only(console: Console, title: str, rows: Sequence[Row]) -> None:
    for row in rows:
        line = f"# {title}: {row.case} {format_size(row.bytes)} {row.semantics} {row.peer or 'umem'}"
        console.print(line, highlight=False, markup=False)
