"""Writes a short form of a verdict into README.md: `umem verdict > FILE; python scripts/write_verdict.py FILE`.

What the reader of a first screen wants: who reaches what, that it is one address, the first figures of
latency and bandwidth, the five steps, where messages begin, the conclusion. `-` reads standard input.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- verdict -->", "<!-- /verdict -->"
WIDTH, MAX_LINES = 110, 44
GAP = "   "  # between columns; no cell of the verdict has as many spaces in a row

REACH, ADDRESS = "How each byte is reached", "One address, one value"
STEPS, CROSSOVER = "What the five steps cost", "Memory or messages"
# Rows that are shown: case, size, and by whom besides umem.
HEADLINES = {
    ("latency.line", "8"): "c",
    ("latency.chase", "256M"): "private memory",
    ("latency.message", "8"): "ucx_perftest",
    ("bandwidth.copy", "64M"): "libc memcpy",
    ("bandwidth.message", "1M"): "ucx_perftest",
}
SHOWN = ("case", "size", "semantics", "by", "p50(us)", "GB/s", "of limit")

Table = list[list[str]]  # lines of cells; the first is the heading


def tables(text: str) -> dict[str, Table]:
    """The tables of a verdict by their titles."""
    found = {}
    for block in text.split("\n\n"):
        title, *lines = block.strip("\n").splitlines() or [""]
        if title.startswith("# ") and len(lines) > 2 and set(lines[1]) == {"─"}:
            rows = [[cell.strip() for cell in line.rstrip().split(GAP) if cell.strip()] for line in lines]
            heading = rows[0] if len(rows[0]) == len(rows[2]) else ["", *rows[0]]
            found[title.removeprefix("# ").partition(":")[0]] = [heading, *rows[2:]]
    return found


def short(text: str) -> list[str]:
    """The lines for the README. Raises SystemExit for a text that is no verdict, failed, or is incomplete."""
    found, last = tables(text), text.strip().splitlines()[-1] if text.strip() else ""
    if REACH not in found or "; " not in last:
        raise SystemExit("this is not what `umem verdict` prints")
    if "FAILED" in last or "WRONG" in text or "INCOMPLETE" in last or last.startswith("no verdict"):
        raise SystemExit(f"no verdict for newcomers: {last}")
    facts = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    machine = next(number for number, line in enumerate(facts) if line.startswith("umem "))
    address = [row for row in found.get(ADDRESS, []) if row[0] == "one address"]
    parts = [
        facts[machine : machine + 4],
        [*drawn(named(found, REACH)), *(": ".join(row) for row in address)],
        drawn(headlines(found)),
        drawn(named(found, STEPS)),
        drawn(named(found, CROSSOVER)),
        textwrap.wrap(last, WIDTH),
    ]
    lines = "\n\n".join("\n".join(part) for part in parts if part).splitlines()
    if len(lines) > MAX_LINES:
        raise SystemExit(f"{len(lines)} lines are more than a first screen: use fewer ranks")
    return lines


def named(found: dict[str, Table], title: str) -> Table:
    """The table of this title, which stands above its first column; empty where the verdict has none."""
    heading, *rows = found.get(title) or [[""]]
    return [[title, *heading[1:]], *rows] if rows else []


def headlines(found: dict[str, Table]) -> Table:
    """HEADLINES of all tables that have rows of cases, in the columns SHOWN."""
    chosen = []
    for heading, *rows in found.values():
        if not set(SHOWN) <= set(heading):
            continue
        for row in rows:
            cells = dict(zip(heading, row, strict=True))
            other = HEADLINES.get((cells["case"], cells["size"]))
            if other is not None and cells["by"] in ("umem", other):
                chosen.append([cells[name] for name in SHOWN])
    return [list(SHOWN), *chosen] if chosen else []


def drawn(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def filled(page: str, lines: Sequence[str]) -> str:
    """The page with these lines between its markers, in place of the old ones."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no {BEGIN} ... {END}")
    block = "\n".join(["```", "$ umem verdict", *lines, "```"])
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    """Fill README.md from the file that is named, or from standard input."""
    (name,) = sys.argv[1:] or ["-"]
    text = sys.stdin.read() if name == "-" else Path(name).read_text()
    README.write_text(filled(README.read_text(), short(text)))
    print(f"wrote {README.name}")


if __name__ == "__main__":
    main()
