"""The verdict as text and as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from ..harness.rows import NOTE_KINDS, Results
from ..output import plot, table
from .evidence import Conclusion

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { border-left: 6px solid #1668b8; padding: .6rem 1rem; background: #f2f7fc; font-size: 1.15rem; }
.stacked { border-color: #d1532b; background: #fdf4f0; }
.meaning { color: #59636e; margin: .2rem 0 .6rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid #e3e6ea; white-space: nowrap; }
th { border-bottom: 2px solid #9aa4af; } svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Section:
    """One table, the meaning of its columns on this machine, and pictures."""

    title: str
    meaning: str
    heading: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    figures: tuple[Figure, ...] = ()


def show(
    console: Console,
    results: Results,
    sections: Sequence[Section],
    conclusion: Conclusion,
    world: str,
    ping_pong_ns: Sequence[float],
    elapsed_s: float,
) -> None:
    """Print everything; the conclusion is the last line."""
    table.print_header(console, results, world, ping_pong_ns)
    for section in sections:
        console.print()
        comment(console, f"{section.title}: {section.meaning}")
        console.print(drawn(section))
    console.print()
    for note in results.notes:
        comment(console, note)
    comment(console, f"{elapsed_s:.0f} s")
    console.print(conclusion.last_line, style="bold", highlight=False, markup=False, soft_wrap=True)


def comment(console: Console, text: str) -> None:
    """Print a comment line."""
    console.print(f"# {text}", highlight=False, markup=False, soft_wrap=True)


def drawn(section: Section) -> Table:
    """A section's table for the terminal."""
    made = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for name in section.heading:
        made.add_column(name, overflow="fold")
    for line in section.lines:
        made.add_row(*line)
    return made


def html(
    results: Results, sections: Sequence[Section], conclusion: Conclusion, world: str, elapsed_s: float
) -> str:
    """The page: no file, script or font from elsewhere."""
    machine = results.machine
    kind = "verdict" if conclusion.is_supernode else "verdict stacked"
    copy = f"umem {machine['version']} {machine['commit']}".strip()
    facts = f"{machine['host']}, {machine['memory']}; {copy}; world {world}"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in conclusion.reasons)
    notes = "".join(notes_html(kind, results.notes) for kind in NOTE_KINDS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>umem verdict</title>'
        f"<style>{STYLE}</style></head><body><h1>One memory, or stacked servers?</h1>"
        f'<p class="meaning">{escape(facts)}; {elapsed_s:.0f} s</p>'
        f'<p class="{kind}"><strong>{escape(conclusion.line)}</strong></p><ul>{reasons}</ul>'
        f"{''.join(map(section_html, sections))}{notes}</body></html>\n"
    )


def notes_html(kind: str, notes: Sequence[str]) -> str:
    """The notes of one kind under its heading; nothing where there are none."""
    mine = [note.removeprefix(f"{kind}: ") for note in notes if note.startswith(f"{kind}: ")]
    items = "".join(f"<li>{escape(note)}</li>" for note in mine)
    return f"<h2>{escape(NOTE_KINDS[kind])}</h2><ul>{items}</ul>" if mine else ""


def section_html(section: Section) -> str:
    """One section of the page."""
    heading = "".join(f"<th>{escape(name)}</th>" for name in section.heading)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in section.lines
    )
    figures = "".join(plot.svg(figure) for figure in section.figures)
    return (
        f'<h2>{escape(section.title)}</h2><p class="meaning">{escape(section.meaning)}</p>'
        f'<div class="wide"><table><tr>{heading}</tr>{lines}</table></div>{figures}'
    )
