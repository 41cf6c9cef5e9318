"""Model checking of the coherence protocol: the table alone, and as the agents' messages carry it out."""

from ...coherence.search import Result, Verdict, search

__all__ = ["Result", "Verdict", "search"]
