"""A bounded program as a value: its lanes, its words, and the check of its ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ...kernels.intrinsics.elements import Number
from .search import DEFAULT_LIMIT_S, Deaths, Final, explore
from .verdict import Result, Verdict
from .walk import walk


@dataclass(frozen=True)
class Program:
    """The arguments of `explore` as a value; `names` gives addresses the names that traces show.

    It is checked under each of `models` in turn, the simple one first, until a bug is found.
    """

    lanes: Sequence[tuple[Any, ...]]
    memory: Mapping[int, Number]
    final: Final | None = None
    kills: int = 0
    constants: Mapping[int, Number] = field(default_factory=dict)
    deaths: Deaths = field(default_factory=dict)
    models: tuple[str, ...] = ("sequential", "weak")
    names: Mapping[int, str] = field(default_factory=dict)
    mortal: Collection[int] | None = None

    def __post_init__(self) -> None:
        for name, given in (("lanes", self.lanes), ("models", self.models)):
            if not given:
                raise ConfigError(f"a Program without {name} leaves nothing to check")

    def check(self, limit_s: float = DEFAULT_LIMIT_S, walks: int = 0, seed: int = 1) -> Iterator[Verdict]:
        """The verdict under each model; where a search meets its limit, then also that of so many random `walks`."""
        for model in self.models:
            verdict = explore(
                self.lanes,
                self.memory,
                self.final,
                model,
                self.kills,
                self.constants,
                self.deaths,
                limit_s=limit_s,
                mortal=self.mortal,
            )
            if verdict.result is Result.LIMIT and walks:
                yield verdict
                verdict = walk(
                    self.lanes,
                    self.memory,
                    self.final,
                    model,
                    self.constants,
                    walks,
                    seed,
                    limit_s,
                    self.kills,
                    self.deaths,
                    self.mortal,
                )
            yield verdict
            if verdict.result is Result.BUG:
                return
