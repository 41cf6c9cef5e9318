"""`umem verify faults`: worlds whose ranks are killed, a line for each kind of work and world."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ...errors import ConfigError, LaunchError, UnknownName
from ...world import launch
from ...world.spec import CONTINUE, WorldSpec
from .agent import AgentWork
from .directory import DirectoryWork
from .heap import HeapWork
from .journal import Journal
from .play import Maker, Report, play, victims

FAULT_KINDS: dict[str, Maker] = {"heap": HeapWork, "directory": DirectoryWork, "agent": AgentWork}
NUM_RANKS = 6
SEGMENT = "64M"
# whose kernels ranks would else load one by one
_PRELOAD = ("umem.lines.cache", "umem.verify.faults.command")
TIMEOUT_S = 20.0  # of any wait: a longer one is a hang
FAIL_CODE = 1


@dataclass
class Row:
    """The totals of one kind of work in one kind of world, over all its kills."""

    kind: str
    world: str
    num_kills: int = 0
    num_steps: int = 0
    num_lost: int = 0
    recoveries_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The line that is printed."""
        median = statistics.median(self.recoveries_ms) if self.recoveries_ms else float("nan")
        worst = max(self.recoveries_ms, default=float("nan"))
        return (
            f"{self.kind:<10} {self.world:<15} {self.num_kills:>5} kills {self.num_steps:>8} steps of survivors"
            f"  recovery {median:7.1f} ms, worst {worst:7.1f} ms  {self.num_lost:>4} lines poisoned"
            f"  {'FAILED' if self.failures else 'ok'}"
        )


def check(console: Console, kinds: Sequence[str], world: str, num_kills: int, seed: int) -> int:
    """Kill `num_kills` ranks at each kind of work and print a row and its failures. Returns 0, or FAIL_CODE."""
    for kind in kinds:
        if kind not in FAULT_KINDS:
            raise UnknownName("kind of work", kind, tuple(FAULT_KINDS))
    if not kinds:
        raise ConfigError(f"--what names nothing to check; known: {', '.join(FAULT_KINDS)}")
    if num_kills < 1:
        raise ConfigError(f"--kills {num_kills}: at least one")
    has_failed = False
    for kind in kinds:
        row = run(kind, world, num_kills, seed)
        console.print(row.text(), highlight=False, markup=False, soft_wrap=True)
        for failure in row.failures:
            console.print(f"  {failure}", highlight=False, markup=False, soft_wrap=True)
        has_failed = has_failed or bool(row.failures)
    return FAIL_CODE if has_failed else 0


def run(kind: str, world: str, num_kills: int, seed: int) -> Row:
    """Worlds of this kind until `num_kills` ranks are dead, or one world went wrong."""
    row = Row(kind, world)
    while row.num_kills < num_kills and not row.failures:
        num_ranks = min(NUM_RANKS, num_kills - row.num_kills + 2)
        spec = WorldSpec.of(num_ranks, world, segment=SEGMENT, timeout_s=TIMEOUT_S, on_failure=CONTINUE)
        kill_some(row, spec, FAULT_KINDS[kind], seed + row.num_kills)
    return row


def kill_some(row: Row, spec: WorldSpec, make: Maker, seed: int) -> None:
    """Run one world whose inner ranks are killed, and add its survivors' reports and failures to the row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        Journal.create(path, spec.num_ranks)
        outcomes = launch(
            play, spec=spec, results="all", args=(make, str(path), seed, TIMEOUT_S), preload=_PRELOAD
        )
    killed = victims(spec.num_ranks)
    for rank, outcome in enumerate(outcomes):
        if isinstance(outcome, Report):
            row.num_steps += outcome.num_steps
            row.num_lost += outcome.num_lost
            row.recoveries_ms += outcome.recoveries_ms
        elif rank not in killed or not isinstance(outcome, LaunchError):
            row.failures.append(f"seed {seed}, rank {rank}: {type(outcome).__name__}: {outcome}")
    row.num_kills += len(killed)
