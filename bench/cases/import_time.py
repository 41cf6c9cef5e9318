"""The time of `import umem`, and the number of heavy modules that it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from umem.errors import WorldError

from ..harness.case import Case
from ..harness.side import HOME_NONE, NO_SEMANTICS, Options, Point, Side
from ..harness.stats import Samples
from ..harness.workers import Workers
from .registry import register

ALLOWANCE_S = 0.1
_FORBIDDEN = ("torch", "cupy", "numba", "ucp", "ucxx", "libucx")
_TIMEOUT_S = 60.0
TIMED = "import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
COUNTED = f"import sys, umem; print(sum(name in sys.modules for name in {_FORBIDDEN}))"


class PrintSide(Side):
    """The number that a new Python process prints, plus a constant."""

    def __init__(self, name: str, code: str, peer: str | None = None, plus: float = 0.0):
        super().__init__(name, NO_SEMANTICS, peer)
        self._code, self._plus = code, plus

    def block(self, num_samples: int) -> Samples:
        return np.array([self._number() + self._plus for _ in range(num_samples)])

    def _number(self) -> float:
        command = [sys.executable, "-c", self._code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            raise WorldError(f"{self._code!r} failed: {done.stderr.strip()[-400:]}")
        return float(done.stdout)


class ConstantSide(Side):
    """A constant to compare with."""

    def __init__(self, name: str, value: float, peer: str):
        super().__init__(name, NO_SEMANTICS, peer)
        self._value = value

    def block(self, num_samples: int) -> Samples:
        return np.full(num_samples, self._value)


@register
class ImportTime(Case):
    """Seconds of `import umem`."""

    key = "import.time"
    description = "import umem in a new Python, against import numpy there plus 0.1 s"
    limit_side = "numpy"
    min_ranks = 1
    worlds = ("mapped",)
    most_samples = 1
    home = HOME_NONE
    budget_s = 2.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        numpy = TIMED.format(module="numpy")
        return [
            PrintSide("umem", TIMED.format(module="umem")),
            PrintSide("numpy", numpy, peer="numpy"),
            PrintSide("numpy_and_allowance", numpy, peer="numpy + 0.1 s", plus=ALLOWANCE_S),
        ]


@register
class ImportModules(Case):
    """Heavy modules that `import umem` loads."""

    key = "import.modules"
    description = (
        "how many of torch, cupy, numba and the UCX bindings `import umem` loads (in place of seconds)"
    )
    min_ranks = 1
    worlds = ("mapped",)
    most_samples = 1
    home = HOME_NONE
    budget_s = 1.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [PrintSide("loaded", COUNTED), ConstantSide("one", 1.0, peer="1")]
