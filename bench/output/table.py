"""Results as text: nccl-tests' shape, `#` before everything that is not a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from umem.units import format_size

from ..harness.case import Case
from ..harness.rows import Results, Row, Status

HEADINGS = (
    ("size", "right"),
    ("what", "left"),
    ("semantics", "left"),
    ("by", "left"),
    ("transport", "left"),
    ("p50(us)", "right"),
    ("p99(us)", "right"),
    ("cv", "right"),
    ("GB/s", "right"),
    ("of limit", "right"),
    ("#wrong", "right"),
    ("status", "left"),
)

_FAR_NS = 250  # measured on Zen 5: 90-130 ns within a cache complex, about 450 between two
SAME_DRAM = "peer = memory of another rank on this host, which is the same DRAM as one's own"
OTHER_HOST = "peer = memory of a rank in another network namespace of this machine, reached by tcp"
UNMAPPED = "peer = memory of another rank on this host that is not mapped here, the same DRAM as one's own"
MEANING = {"mapped": SAME_DRAM, "no-peer-access": UNMAPPED, "hosts": OTHER_HOST}


def print_header(console: Console, results: Results, world: str, ping_pong_ns: Sequence[float]) -> None:
    """Print umem's version, the machine, the meaning of 'peer' and the distance of the cores."""
    machine = results.machine
    _comment(console, f"umem {machine['version']} {machine['commit']}".rstrip())
    _comment(console, f"{machine['host']}, {machine['memory']}, numba {machine['numba']}, world {world}")
    _comment(console, MEANING[world])
    if ping_pong_ns:
        _comment(console, core_distance(ping_pong_ns))
    _comment(console, "sides of one size run in turns; compare inside a table, not between runs")


def core_distance(ping_pong_ns: Sequence[float]) -> str:
    """A sentence on whether the cores share a cache, from round trips of a line at one or both ends of a run.

    A virtual machine's host may move its cores at any time.
    """
    best, worst = min(ping_pong_ns), max(ping_pong_ns)
    if best < _FAR_NS <= worst:
        times = " and later ".join(f"{one:.0f}" for one in ping_pong_ns)
        return f"a line goes to the other core and back in {times} ns: the host moves the cores, near and far"
    near, far = "the cores share a cache", "the cores are far apart, on two cache complexes"
    where = near if best < _FAR_NS else far
    return f"a line goes to the other core and back in {best:.0f} ns at best: {where}"


def print_case(console: Console, case: type[Case], results: Results) -> None:
    """The rows of one case under its sentence."""
    console.print()
    _comment(console, f"{case.key}: {case.description}")
    console.print(table(results.rows))
    for note in results.notes:
        _comment(console, note)


def table(rows: Sequence[Row]) -> Table:
    """A table of rows, one line each."""
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for name, justify in HEADINGS:
        drawn.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        drawn.add_row(*cells(row))
    return drawn


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row, in the order of HEADINGS."""
    return (
        format_size(row.bytes) if row.bytes else "-",
        setting_of(row) or "-",
        access(row),
        row.peer or "umem",
        row.transport or "-",
        number(row.p50_us),
        number(row.p99_us),
        number(row.cv),
        number(row.gbps),
        number(row.fraction_of_limit),
        str(row.errors),
        row.status,
    )


def access(row: Row) -> str:
    """The semantics of the row, with the attribute of its memory where ranks keep copies of it."""
    if row.semantics == "none":
        return "-"
    return row.semantics if row.cache == "none" else f"{row.semantics} {row.cache}"


def setting_of(row: Row) -> str:
    """The text in the brackets of the row's case: its point's settings, and the part of the operation."""
    return row.case.partition("[")[2].rstrip("]")


def number(value: float | None) -> str:
    """Four significant digits without an exponent, `-` for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2e}"


def print_footer(console: Console, rows: Iterable[Row], ping_pong_ns: Sequence[float] = ()) -> None:
    """Print the counts of wrong data, errors and waivers, and the distance of the cores at both ends of the run."""
    rows = list(rows)
    failed = sum(row.status == Status.ERROR for row in rows)
    waived = sum(row.status == Status.WAIVED for row in rows)
    console.print()
    if ping_pong_ns:
        _comment(console, core_distance(ping_pong_ns))
    wrong = sum(row.errors for row in rows)
    _comment(console, f"rows {len(rows)}, wrong {wrong}, errors {failed}, waived {waived}")


def _comment(console: Console, text: str) -> None:
    console.print(f"# {text}", highlight=False, markup=False, soft_wrap=True)
