"""Sides in turns: A B C A B C ..., so that the host's drift meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from umem.errors import FabricMissing, NotMappable, UmemError, Waived

from .side import Measured, Point, Side

LACKS = (Waived, FabricMissing, NotMappable)  # errors that the machine causes, not a fault of umem


@dataclass(frozen=True)
class Depth:
    """The amount of sampling at a point: `num_rounds` rounds of one block a side, fewer when time is up."""

    num_rounds: int
    samples_per_block: int
    warmup_samples: int = 1
    time_limit_s: float = float("inf")
    min_rounds: int = 3

    def shared_by(self, num_points: int) -> Depth:
        """The same depth at each of `num_points` points that share the time."""
        return replace(self, time_limit_s=self.time_limit_s / max(num_points, 1))


@dataclass(frozen=True)
class Missing:
    """A side that could not run, and the error that stopped it."""

    side: Side
    error: UmemError

    @property
    def is_waived(self) -> bool:
        """Whether the machine is the reason, not a fault of umem."""
        return isinstance(self.error, LACKS)


def open_sides(sides: Sequence[Side]) -> tuple[list[Side], list[Missing]]:
    """Open every side that can run here; returns the open ones, and the others with their errors."""
    opened: list[Side] = []
    missing: list[Missing] = []
    try:
        for side in sides:
            try:
                side.open()
            except UmemError as error:
                missing.append(Missing(side, error))
            else:
                opened.append(side)
    except BaseException:
        close_sides(opened)
        raise
    return opened, missing


def close_sides(sides: Sequence[Side]) -> None:
    """Close in the reverse order of opening."""
    for side in reversed(sides):
        side.close()


def run_rounds(sides: Sequence[Side], measured: Measured, num_rounds: int, samples_per_block: int) -> None:
    """Add `num_rounds` rounds to `measured`; data is checked after each block, outside its timing."""
    for _ in range(num_rounds):
        for side in sides:
            run_block(side, measured, samples_per_block)


def run_block(side: Side, measured: Measured, num_samples: int) -> None:
    """Run one block of one side, and add its samples and its errors to `measured`."""
    measured.blocks.setdefault(side.name, []).append(side.block(num_samples))
    measured.errors[side.name] = measured.errors.get(side.name, 0) + side.num_errors()


def warm_up(sides: Sequence[Side], num_samples: int) -> list[Missing]:
    """Run one block a side and drop its times: page faults, connections, branch predictors.

    Returns the sides that find only now that the machine lacks something.
    """
    missing = []
    for side in [side for side in sides if side.warms_up and num_samples]:
        try:
            side.block(num_samples)
            side.num_errors()
        except LACKS as error:
            missing.append(Missing(side, error))
    return missing


def measure(
    sides: Sequence[Side], point: Point, depth: Depth, clock: Callable[[], float] = time.monotonic
) -> tuple[Measured, list[Missing]]:
    """Run blocks of all open `sides` in turns, to `depth` or until its time is up.

    Returns also the sides whose warm-up found that the machine lacks something; these are not run.
    """
    measured = Measured(point)
    end = clock() + depth.time_limit_s
    missing = warm_up(sides, depth.warmup_samples)
    lacking = [lack.side for lack in missing]
    sides = [side for side in sides if side not in lacking]
    for num_done in range(depth.num_rounds):
        if num_done >= depth.min_rounds and clock() > end:
            break
        run_rounds(sides, measured, 1, depth.samples_per_block)
    return measured, missing
