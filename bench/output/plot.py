"""Results as pictures, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from umem.units import format_size

from ..harness.rows import Row
from ..harness.stats import stretches
from .table import access

matplotlib.use("Agg")

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")
PANEL_INCHES = (6.4, 3.6)
_MEMORY, _MESSAGE, OTHER = "#1668b8", "#d1532b", "#8a8a8a"
COLOURS = {
    "load_store": _MEMORY,
    "near": "#2a9d8f",
    "rma": "#6a4c93",
    "message": _MESSAGE,
    "staged": "#e9a23b",
}
_CACHED = {
    "back": "#0b3c6f",
    "through": "#5fa8e8",
    "private": "#9bb8d3",
}  # loads and stores of cached memory


def sweep_figure(rows: Sequence[Row]) -> Figure:
    """A panel a case: time, or rate where rows have one, over size; one line a side."""
    drawn = panels([row for row in rows if row.p50_us is not None]) or {"nothing measured": []}
    figure = Figure(figsize=(PANEL_INCHES[0], PANEL_INCHES[1] * len(drawn)), layout="constrained")
    axes_of = figure.subplots(len(drawn), 1, squeeze=False)
    for axes, (name, mine) in zip(axes_of[:, 0], drawn.items(), strict=True):
        draw_case(axes, name, mine)
    return figure


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each panel, by its name: a case with its setting and its sides' operation (`case[setting read]`).

    A side without an operation of its own (`case[setting]`: a message, a limit) is in the panel of each.
    """
    names = list(dict.fromkeys(row.case for row in rows))
    special = {name: [other for other in names if _is_special(other, name)] for name in names}
    return {
        name: [row for row in rows if row.case == name or name in special[row.case]]
        for name in names
        if not special[name]
    }


def _is_special(name: str, common: str) -> bool:
    """Whether panel `name` is a special case of `common`: the same case with further words in its brackets."""
    (case, _, words), (other, _, others) = name.rstrip("]").partition("["), common.rstrip("]").partition("[")
    return case == other and name != common and f"{words} ".startswith(f"{others} " if others else "")


def draw_case(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    """One case: lines where it sweeps a size, bars where it has one size."""
    axes.set_title(name, fontsize=10)
    sizes = sorted({row.bytes for row in rows})
    if len(sizes) < 2:
        _draw_bars(axes, rows)
        return
    for side in dict.fromkeys(_side(row) for row in rows):
        mine = [row for row in rows if _side(row) == side]
        line = sorted((row.bytes, row.p50_us or 0.0) for row in mine)
        axes.plot(
            [size for size, _ in line],
            [time_us for _, time_us in line],
            marker="o",
            markersize=3,
            linestyle="--" if mine[0].peer else "-",
            color=_colour(mine[0]) if mine[0].peer is None else None,
            label=_side_label(mine[0]),
        )
    for size in crossovers(rows):
        axes.axvline(size, color=OTHER, linewidth=0.8, linestyle=":")
        axes.annotate(format_size(round(size)), (size, 0.02), xycoords=("data", "axes fraction"), fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [format_size(size) for size in sizes], fontsize=7)
    axes.set_ylabel("microseconds (p50)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def crossovers(rows: Sequence[Row]) -> list[float]:
    """Sizes at which umem's loads and stores and its messages change places as the faster."""
    memory, message = (
        {
            row.bytes: row.p50_us
            for row in rows
            if row.semantics == semantics and row.peer is None and row.p50_us
        }
        for semantics in ("load_store", "message")
    )
    sizes = sorted(memory.keys() & message.keys())
    if not sizes:
        return []
    times = [np.array([found[size] for size in sizes]) for found in (memory, message)]
    return [stretch.begin for stretch in stretches(np.array(sizes, float), *times)[1:]]


def _draw_bars(axes: Axes, rows: Sequence[Row]) -> None:
    labels = [_side_label(row) for row in rows]
    colours = [_colour(row) if row.peer is None else OTHER for row in rows]
    axes.barh(range(len(rows)), [row.p50_us or 0.0 for row in rows], color=colours)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds (p50)")


def _side(row: Row) -> tuple[str, str, str | None, str]:
    return row.semantics, row.cache, row.peer, row.transport


def _colour(row: Row) -> str:
    return _CACHED.get(row.cache) or COLOURS.get(row.semantics, OTHER)


def _side_label(row: Row) -> str:
    if row.semantics == "none":
        return row.peer or "umem"
    return f"{row.peer or 'umem'} {access(row)}"


def steps_figure(steps: Sequence[tuple[str, float]], memory_us: float | None, title: str) -> Figure:
    """The steps of the staged path end to end as one bar, beside one load/store of the same bytes."""
    figure = Figure(figsize=(PANEL_INCHES[0], 2.2), layout="constrained")
    axes = figure.subplots()
    start = 0.0
    shades = ("#7a1f06", "#b23a13", "#d1532b", "#e58359", "#f3b598")
    for (name, time_us), shade in zip(steps, shades, strict=False):
        axes.barh(0, time_us, left=start, color=shade, label=f"{name} {time_us:.3g} us")
        start += time_us
    bars = ["staged"]
    if memory_us is not None:
        axes.barh(1, memory_us, color=_MEMORY, label=f"load/store {memory_us:.3g} us")
        bars.append("load/store")
    axes.set_yticks(range(len(bars)), bars)
    axes.set_xlabel("microseconds (p50)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, ncols=2, loc="lower right")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture; the suffix chooses the format."""
    figure.savefig(path, dpi=120)


def svg(figure: Figure) -> str:
    """The picture as SVG text to be put inside HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
