"""The program of the ranks of one world in which some are killed: work, kills, and the checks of the survivors.

The first and the last rank survive; the first kills the others, one after the other, by SIGKILL at random moments.
After each kill it accesses what the dead rank held until that succeeds: that is the time of recovery.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import RankLost, WaitTimeout
from ...space.space import Space
from ...world.waiting import Deadline, until
from .journal import JOURNAL_PID, JOURNAL_STEPS, Journal

STEPS_BETWEEN = 20  # of each living rank before the next kill
MAX_WAIT_S = 0.02  # then the victim dies within that time


class Work(Protocol):
    """One kind of work: its steps, its recovery from a death, and its final check."""

    def step(self) -> None:
        """A few accesses; raises where one finds a wrong value."""
        ...

    def recover(self, victim: int) -> None:
        """Access memory that only `victim` held or served, until that succeeds or raises the error it must."""
        ...

    def check(self, dead: list[int]) -> None:
        """Assert, once all work is over, that the survivors' memory holds the right values."""
        ...


Maker = Callable[[Space, Journal, np.random.Generator], Work]


@dataclass
class Report:
    """The report of a survivor."""

    num_steps: int = 0
    num_lost: int = 0  # lines that it found poisoned
    recoveries_ms: list[float] = field(default_factory=list)


def victims(num_ranks: int) -> list[int]:
    """The ranks that are killed."""
    return list(range(1, num_ranks - 1))


def play(space: Space, make: Maker, path: str, seed: int, timeout_s: float) -> Report:
    """Run in every rank of a world with on_failure="continue"; the victims never return."""
    journal = Journal(Path(path), space.num_ranks)
    work = make(space, journal, np.random.default_rng([seed, space.rank]))
    row = journal.rows[space.rank]
    row[JOURNAL_PID] = os.getpid()
    space.barrier()
    report = Report()
    if space.rank == 0:
        try:
            report.recoveries_ms = [
                kill(journal, work, victim, timeout_s, np.random.default_rng([seed, victim]))
                for victim in victims(space.num_ranks)
            ]
            work_until_all_have(journal, work, [space.num_ranks - 1], timeout_s)
        finally:
            journal.end()  # also after an error: the others would work for ever
    else:
        while not journal.is_over:
            if 0 in space.page.dead_ranks():
                raise RankLost(0, "it kills the others, and says when all is over")
            go_on(work.step)
            row[JOURNAL_STEPS] += 1
    report.num_steps = int(row[JOURNAL_STEPS])
    last = space.num_ranks - 1
    meet(space, "worked", last)
    work.check(victims(space.num_ranks))
    report.num_lost = getattr(work, "num_lost", 0)
    meet(space, "checked", last)
    return report


def kill(journal: Journal, work: Work, victim: int, timeout_s: float, rng: np.random.Generator) -> float:
    """Work until all have worked, kill `victim`, and recover; returns the time of recovery in ms."""
    work_until_all_have(journal, work, list(range(victim, journal.num_ranks)), timeout_s)
    end_s = time.monotonic() + rng.uniform(0, MAX_WAIT_S)
    while time.monotonic() < end_s:
        go_on(work.step)
    os.kill(int(journal.rows[victim, JOURNAL_PID]), signal.SIGKILL)
    begin_s = time.monotonic()
    work.recover(victim)
    return 1e3 * (time.monotonic() - begin_s)


def work_until_all_have(journal: Journal, work: Work, ranks: list[int], timeout_s: float) -> None:
    """Work until each of `ranks` has made a few steps more. Raises WaitTimeout: one of them hangs."""
    wanted = {rank: int(journal.rows[rank, JOURNAL_STEPS]) + STEPS_BETWEEN for rank in ranks}

    slow: list[int] = []

    def look() -> bool | None:
        slow[:] = journal.behind(wanted)
        if not slow:
            return True
        go_on(work.step)
        journal.rows[0, JOURNAL_STEPS] += 1
        return None

    if until(look, Deadline(timeout_s)) is None:
        raise WaitTimeout(f"ranks {slow} have made no {STEPS_BETWEEN} steps within {timeout_s:g} s")


def go_on(step: Callable[[], None]) -> None:
    """Do a step; RankLost, the death of a rank that it needs, ends the step and nothing else."""
    try:
        step()
    except RankLost:
        return


def meet(space: Space, stage: str, last: int) -> None:
    """Wait for the other survivor under the name `stage`: a rank that leaves takes its memory along."""
    space.world.set(f"{stage}-{space.rank}", b"")
    for rank in (0, last):
        space.world.get(f"{stage}-{rank}")
