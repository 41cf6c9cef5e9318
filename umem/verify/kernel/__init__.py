"""Model checking of kernels as they are: `explore` searches every execution of two or three lanes.

Say of an exhausted search: every execution of this bounded program under a promise-free RC11-style model. It
is no proof for a processor: load buffering of relaxed accesses, scopes and accesses of mixed sizes are outside.
"""

from .operation import Operation
from .program import Program
from .search import KILLED, explore
from .verdict import Result, Step, Verdict
from .walk import replay, walk

__all__ = ["KILLED", "Operation", "Program", "Result", "Step", "Verdict", "explore", "replay", "walk"]
