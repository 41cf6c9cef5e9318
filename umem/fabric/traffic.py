"""Counters that are cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Traffic:
    """The traffic of one rank's switch: operations and bytes by (fabric, rank, operation)."""

    operations: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    num_bytes: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    sources: list[Callable[[], list[dict[str, Any]]]] = field(default_factory=list)  # rows counted elsewhere

    def count(self, fabric: str, rank: int, operation: str, num_bytes: int) -> None:
        """Add one operation of `num_bytes` towards `rank`."""
        port = (fabric, rank, operation)
        self.operations[port] += 1
        self.num_bytes[port] += num_bytes

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a port, busiest first."""
        operations, num_bytes = self.operations.copy(), self.num_bytes.copy()
        for row in (row for source in self.sources for row in source()):
            port = (row["fabric"], row["rank"], row["operation"])
            operations[port] += row["operations"]
            num_bytes[port] += row["bytes"]
        return [
            {
                "fabric": port[0],
                "rank": port[1],
                "operation": port[2],
                "operations": n,
                "bytes": num_bytes[port],
            }
            for port, n in operations.most_common()
        ]
