"""Model checking of the coherence protocol as agents' messages carry it out.

The table alone, every transaction one step, is checked by umem/coherence/atomic.py, below this floor, so that a
variant can be checked before it runs.
"""

from ...coherence.atomic import Atomic
from ...coherence.search import Result, Verdict, search
from .flits import Flits
from .rules import Rules

__all__ = ["Atomic", "Flits", "Result", "Rules", "Verdict", "search"]
