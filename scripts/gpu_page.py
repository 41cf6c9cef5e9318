"""The page of scripts/gpu-check: a line for each check as it ends; then versions and a table, printed and in a file."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PASS, FAIL, WAIVED, ANSWER = "pass", "FAIL", "waived", "answer"
PACKAGES = (
    *("numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink"),
    *("nvidia-nvfatbin", "pytest", "torch", "cupy-cuda13x", "libucx-cu12", "libucx-cu13"),
)


class Waived(Exception):
    """Raised by a check that this machine has nothing for; the text says what is missing."""


@dataclass(frozen=True)
class Row:
    """A check on a device: its verdict (PASS, FAIL, WAIVED, or ANSWER to a question) and the evidence."""

    check: str
    device: str
    verdict: str
    evidence: str


@dataclass
class Page:
    """All rows so far, each printed when it comes."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Print a row and keep it."""
        self.rows.append(row)
        print(f"{row.device:<16} {row.check:<28} {row.verdict:<6} {row.evidence}", flush=True)

    @property
    def has_failed(self) -> bool:
        """Whether a check failed, or none has passed: then nothing was shown."""
        verdicts = {row.verdict for row in self.rows}
        return FAIL in verdicts or not verdicts & {PASS, ANSWER}

    def summary(self) -> str:
        """How many rows of each verdict."""
        counts = Counter(row.verdict for row in self.rows)
        return ", ".join(f"{counts[verdict]} {verdict}" for verdict in (ANSWER, PASS, FAIL, WAIVED))

    def text(self, machine: Sequence[str], took_s: float) -> str:
        """The whole page in Markdown."""
        answers = [
            f"- {row.check}? {row.evidence} ({row.device})" for row in self.rows if row.verdict == ANSWER
        ]
        table = ["| check | device | verdict | evidence |", "| --- | --- | --- | --- |"]
        for row in self.rows:
            if row.verdict != ANSWER:
                said = row.evidence.replace("|", "\\|")
                verdict = f"waived ({said})" if row.verdict == WAIVED else row.verdict
                table.append(
                    f"| {row.check} | {row.device} | {verdict} | {'' if row.verdict == WAIVED else said} |"
                )
        parts = [
            f"# gpu-check: {self.summary()} in {took_s:.0f} s",
            "\n".join(f"- {line}" for line in (*machine, *software())),
            *(["## First answers", "\n".join(answers)] if answers else []),
            "## Checks",
            "\n".join(table),
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, path: Path, machine: Sequence[str], took_s: float) -> None:
        """Write the page to a file and print it."""
        text = self.text(machine, took_s)
        path.write_text(text)
        print(f"\n{text}\n# this page: {path}", flush=True)


def software() -> list[str]:
    """Versions of Python and of the packages that matter here."""
    return [
        f"Python {platform.python_version()}, Linux {platform.release()}, {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
