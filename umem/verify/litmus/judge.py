"""The result of a litmus test on real memory, from how often each end was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from .litmus import Condition, Litmus

End = tuple[int, ...]  # values of litmus.observed

SHOWN = 3  # ends in a table, unless told; the rest is counted


class Result(StrEnum):
    """The results of a test. Inconclusive, which is no pass: only one end was seen, so the lanes may never have met."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"  # the world has fewer ranks than the test has lanes


@dataclass(frozen=True)
class Evidence:
    """How often each end of `litmus` was seen, in a world of `num_ranks`, in `elapsed_s`."""

    litmus: Litmus
    num_ranks: int
    ends: Mapping[End, int]
    elapsed_s: float = 0.0

    @property
    def num_instances(self) -> int:
        """How often the test was played."""
        return sum(self.ends.values())

    @cached_property
    def forbidden(self) -> Counter[Condition]:
        """How often each forbidden condition was met."""
        return self._count(self.litmus.forbidden)

    @cached_property
    def allowed(self) -> Counter[Condition]:
        """How often each allowed condition was met; memory stronger than the weakest allowed never meets it."""
        return self._count(self.litmus.allowed)

    @property
    def result(self) -> Result:
        """WAIVED, FAIL where a forbidden condition was met, INCONCLUSIVE after one end alone, else PASS."""
        if self.num_ranks < len(self.litmus.lanes):
            return Result.WAIVED
        if self.forbidden:
            return Result.FAIL
        return Result.PASS if len(self.ends) > 1 else Result.INCONCLUSIVE

    def text(self, most: int = SHOWN) -> str:
        """The `most` ends that came most often, each with its share."""
        total = max(self.num_instances, 1)
        common = sorted(self.ends.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{' '.join(map(str, end))}: {number / total:.1%}" for end, number in common[:most]]
        more = [f"{len(common) - most} more"] if len(common) > most else []
        return ", ".join(shown + more)

    def _count(self, conditions: tuple[Condition, ...]) -> Counter[Condition]:
        found: Counter[Condition] = Counter()
        for end, number in self.ends.items():
            values = dict(zip(self.litmus.observed, end, strict=True))
            found.update({condition: number for condition in conditions if condition.holds(values)})
        return found
