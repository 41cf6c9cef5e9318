"""The interface of a case: its points, and the sides that run in turns at each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from umem import limits

from .side import NO_SEMANTICS, WORLDS, Measured, Options, Point, Side
from .workers import Workers


class Case(ABC):
    """One thing to measure.

    `about` is the unit of a row's limit and a crossover: "time" (microseconds) or "rate" (GB/s).
    `limit_side` names the side that is this machine's limit. `budget_s` is the time of the case
    inside the verdict; there it stops sampling when the budget is used up. `min_cores` as of a Side.
    """

    key: ClassVar[str]
    description: ClassVar[str]  # one sentence
    semantics: ClassVar[tuple[str, ...]] = (NO_SEMANTICS,)
    about: ClassVar[str] = "time"
    limit_side: ClassVar[str | None] = None
    home: ClassVar[str] = "peer"  # home of the memory: also rank N, local (the driver's own), NO_HOME
    min_ranks: ClassVar[int] = 2
    min_cores: ClassVar[int] = 1
    worlds: ClassVar[tuple[str, ...]] = WORLDS
    most_samples: ClassVar[int] = 1000  # of a block; smaller where more would only take long
    budget_s: ClassVar[float]

    def waived(self, options: Options, brief: bool = False) -> str | None:
        """The reason why the case cannot run with these options here, or None. `brief`: at its brief points."""
        return self.meaningless(options)

    def meaningless(self, options: Options) -> str | None:
        """The reason why the case has no meaning here, where the thing that it measures does not exist; or None."""
        num_cores = len(limits.usable_cores())
        if num_cores < self.min_cores:
            return f"needs {self.min_cores} cores and has {num_cores}"
        if options.ranks < self.min_ranks:
            return f"needs {self.min_ranks} ranks and has {options.ranks}; use --ranks {self.min_ranks}"
        if options.world not in self.worlds:
            return f"has no meaning in world {options.world}; use --world {self.worlds[0]}"
        if self.semantics != (NO_SEMANTICS,) and not set(self.semantics) & set(options.semantics):
            return f"has only {', '.join(self.semantics)}; use --semantics {self.semantics[0]}"
        return None

    @abstractmethod
    def points(self, options: Options) -> Sequence[Point]:
        """The sweep that `options` ask for, ascending in bytes."""

    def brief_points(self, options: Options) -> Sequence[Point]:
        """The few points that the verdict needs."""
        return self.points(options)

    @abstractmethod
    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        """The sides to compare at `point`, not yet open."""

    def bytes_moved(self, point: Point) -> int:
        """Bytes that one operation moves; 0 where a rate has no meaning."""
        return point.num_bytes

    def remarks(self, measured: Measured) -> Sequence[str]:
        """Remarks on a point that its rows cannot hold; printed under the table."""
        return ()
