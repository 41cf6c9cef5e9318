"""`umem verify kernel FILE.py`: check the programs that a Python file assigns.

push_and_pop = Program(lanes=[(push, NODE), (pop,)], memory={TOP: 0, NODE: 0})
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from ...errors import ConfigError
from ...files.users import run_file
from .program import Program
from .verdict import Result, Verdict

BUG_CODE, LIMIT_CODE = 1, 3


def check_file(console: Console, file: Path, limit_s: float, walks: int = 0, seed: int = 1) -> int:
    """Check every program of `file` and print its verdicts. Returns 0, BUG_CODE, or LIMIT_CODE without a bug."""
    results = set()
    for name, program in programs_of(file).items():
        for verdict in program.check(limit_s, walks, seed):
            results.add(verdict.result)
            for line in lines_of(name, program, verdict):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    if Result.BUG in results:
        return BUG_CODE
    return LIMIT_CODE if Result.LIMIT in results else 0


def programs_of(file: Path) -> dict[str, Program]:
    """The programs that a Python file assigns, by name. Raises ConfigError if it cannot be run or assigns none."""
    if not file.is_file():
        raise ConfigError(f"no file {str(file)!r}")
    found = {name: item for name, item in run_file(file).items() if isinstance(item, Program)}
    if not found:
        raise ConfigError(
            f"{file} assigns no Program: write `name = umem.verify.Program(lanes=[(kernel, arguments...)],"
            " memory={address: value, ...})`"
        )
    return found


def lines_of(name: str, program: Program, verdict: Verdict) -> Iterator[str]:
    """A verdict as lines of text; for a bug also each step that leads to it."""
    yield (
        f"{name:<28} {verdict.memory:<10} {verdict.result:<9} {verdict.num_states:>9} {verdict.unit}"
        f" {verdict.elapsed_s:7.2f} s"
    )
    if verdict.growth:
        yield f"  {verdict.growth}"
    if verdict.result is not Result.BUG:
        return
    yield f"  {verdict.bug}"
    names = dict(program.names)
    for number, step in enumerate(verdict.trace):
        operation = (
            "killed before " + step.operation.text(names) if step.is_kill else step.operation.text(names)
        )
        answer = "" if step.answer is None else f" -> {names.get(step.answer, step.answer)}"
        remark = f" ({step.remark})" if step.remark else ""
        where = step.where[0] if step.where else ""
        yield f"  {number:>3}  lane {step.lane}  {operation + answer + remark:<52} {where}"
    others = "".join(f", {name}={name}" for name in ("constants", "deaths") if getattr(program, name))
    yield f"  again: replay(lanes, memory, {verdict.schedule!r}, final, {verdict.memory!r}{others})"
