"""Results of collectives in the columns of nccl-tests, for those who compare with its figures.

algbw is the operation's size over its time; busbw is what each rank must move over it, as nccl-tests defines it: the
factor makes the figures of operations, and of numbers of ranks, comparable with the bandwidth of a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from ..harness.case import Case
from ..harness.collective import IN_BLOCKS, ITEM_BYTES, REDUCING, ROOT
from ..harness.rows import Results, Row
from ..harness.side import Options, Point
from .table import setting_of

FAMILY = "collective."  # of cases
FORMATS = ("table", "nccl")
CALL_HEADINGS = f"{'size':>12} {'count':>12} {'type':>9} {'redop':>6} {'root':>5}"
CALL_UNITS = f"{'(B)':>12} {'(elements)':>12} {'':>9} {'':>6} {'':>5}"
PLACE_HEADINGS = f"{'time':>9} {'algbw':>7} {'busbw':>7} {'#wrong':>7}"
PLACE_UNITS = f"{'(us)':>9} {'(GB/s)':>7} {'(GB/s)':>7} {'':>7}"
NO_FIGURES = f"{'-':>9} {'-':>7} {'-':>7} {'N/A':>7}"


def bus_factor(operation: str, num_ranks: int) -> float:
    """What busbw is of algbw."""
    if operation == "all_reduce":
        return 2 * (num_ranks - 1) / num_ranks
    return (num_ranks - 1) / num_ranks if operation in IN_BLOCKS else 1.0


def knows(case: type[Case]) -> bool:
    """Whether the case has these columns."""
    return case.key.startswith(FAMILY)


def print_case(console: Console, case: type[Case], results: Results) -> None:
    """A table for each side: the rows of a case, out of place beside in place, and the mean of busbw."""
    operation = case.key.removeprefix(FAMILY)
    lines = []
    for side, rows in _by_side(results.rows).items():
        lines += ["#", f"# {case.key}: {side}"]
        lines += [f"#{' ' * len(CALL_HEADINGS)} {'out-of-place':^33}  {'in-place':^33}"]
        lines += [
            f"#{CALL_HEADINGS} {PLACE_HEADINGS}  {PLACE_HEADINGS}",
            f"#{CALL_UNITS} {PLACE_UNITS}  {PLACE_UNITS}",
        ]
        lines += [line(operation, pair) for pair in _pairs(rows)]
        found = [_rates(operation, row)[1] for row in rows if row.p50_us]
        mean = sum(found) / len(found) if found else 0.0
        lines += [
            f"# Out of bounds values : {sum(row.errors for row in rows)}",
            f"# Avg bus bandwidth    : {mean:g}",
        ]
    lines += [f"# {note}" for note in results.notes]
    for text in lines:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def line(operation: str, places: Sequence[Row | None]) -> str:
    """One line: a size, out of place and in place."""
    row = next(row for row in places if row is not None)
    point = _point(row)
    dtype = str(point.setting("dtype", Options.dtype))
    num_blocks = row.ranks if operation in IN_BLOCKS else 1
    count = row.bytes // ITEM_BYTES[dtype] // num_blocks
    redop = str(point.setting("op", Options.op)) if operation in REDUCING else "none"
    root = ROOT if operation == "broadcast" else -1
    text = f" {row.bytes:>12} {count:>12} {dtype:>9} {redop:>6} {root:>5}"
    return text + " " + "  ".join(_place(operation, place) for place in places)


def _place(operation: str, row: Row | None) -> str:
    if row is None or row.p50_us is None:
        return NO_FIGURES
    algbw, busbw = _rates(operation, row)
    return f"{_short(row.p50_us):>9} {algbw:>7.2f} {busbw:>7.2f} {row.errors:>7}"


def _rates(operation: str, row: Row) -> tuple[float, float]:
    """(algbw, busbw) in GB/s."""
    algbw = row.bytes / (row.p50_us or 1.0) / 1e3
    return algbw, algbw * bus_factor(operation, row.ranks)


def _short(time_us: float) -> str:
    return f"{time_us:.0f}" if time_us >= 1000 else f"{time_us:.4g}"


def _by_side(rows: Iterable[Row]) -> dict[str, list[Row]]:
    sides: dict[str, list[Row]] = {}
    for row in rows:
        words = [row.peer or "umem", "" if row.semantics == "none" else row.semantics, row.transport]
        sides.setdefault(", ".join(word for word in words if word), []).append(row)
    return sides


def _pairs(rows: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """(out of place, in place) of each size."""
    by_size: dict[int, list[Row | None]] = {}
    for row in rows:
        by_size.setdefault(row.bytes, [None, None])[int(_point(row).setting("in_place", 0))] = row
    return [(places[0], places[1]) for places in by_size.values()]


def _point(row: Row) -> Point:
    return Point.parse(f"{row.bytes} {setting_of(row)}")
