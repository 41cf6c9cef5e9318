"""The job that goes to the parent of a world's ranks, and the report that comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UmemError
from .spec import WorldSpec

FIRST_RESULT, ALL_RESULTS = "first", "all"


@dataclass
class Job:
    """The arguments of `launch`, but the function, which only ranks unpickle.

    `on_space`: the function gets an open space, else the bare world. `preload` names modules that the
    parent imports before it forks; `module_path` is the caller's sys.path, filled in on the way.
    """

    spec: WorldSpec
    on_space: bool = True
    results: str = FIRST_RESULT
    environment: dict[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    module_path: list[str] = field(default_factory=list)


@dataclass
class Failure:
    """The failure of a rank. `is_consequence`: it met RankLost, so another rank is the cause."""

    rank: int
    exit_code: int = 1
    text: str = ""
    pickled_error: bytes = b""
    is_consequence: bool = False


@dataclass
class Outcome:
    """The end of a world: failures in the order in which they were seen, and pickled results, by rank."""

    exit_code: int = 0
    failures: list[Failure] = field(default_factory=list)
    results: dict[int, bytes] = field(default_factory=dict)

    @property
    def cause(self) -> Failure | None:
        """The first failure that is no consequence of another."""
        causes = [failure for failure in self.failures if not failure.is_consequence]
        return next(iter(causes or self.failures), None)


@dataclass
class Report:
    """The end of the ranks, or the error for which there were none."""

    outcome: Outcome | None = None
    error: UmemError | None = None
