"""Counters that are cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """What went through the switch of one rank: operations and bytes by (fabric, rank, operation)."""

    operations: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    num_bytes: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def count(self, fabric: str, rank: int, operation: str, num_bytes: int) -> None:
        """Add one operation of `num_bytes` towards `rank`."""
        port = (fabric, rank, operation)
        self.operations[port] += 1
        self.num_bytes[port] += num_bytes

    def rows(self) -> list[dict[str, object]]:
        """One dictionary a port, busiest first."""
        return [
            {
                "fabric": port[0],
                "rank": port[1],
                "operation": port[2],
                "operations": n,
                "bytes": self.num_bytes[port],
            }
            for port, n in self.operations.most_common()
        ]
