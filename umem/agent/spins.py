"""How long agents and their clients poll before they sleep, by the number of spare cores.

Polling saves a wake-up (15 us or more) where the other side is awake or has a core of its own, and costs
as much where it needs the core that polls. Figures: two cores, see requests.py.
"""

from __future__ import annotations

from dataclasses import dataclass

_CLOSE_NS = 80_000  # longer than both sides take to fall asleep and wake once, so that they find into step
SHORT_NS = 15_000  # with more ranks than cores: the core is wanted
LONE_NS = 100_000  # longer than a sleeping agent takes to answer


@dataclass(frozen=True)
class Spins:
    """Polling time where requests follow each other closely, and where one comes alone."""

    close_ns: int = SHORT_NS
    lone_ns: int = 0

    @classmethod
    def fit(cls, num_local_ranks: int, num_cores: int) -> Spins:
        """For `num_local_ranks` with an agent each on `num_cores`."""
        return cls(
            close_ns=_CLOSE_NS if num_local_ranks <= num_cores else SHORT_NS,
            lone_ns=LONE_NS if 2 * num_local_ranks <= num_cores else 0,
        )
