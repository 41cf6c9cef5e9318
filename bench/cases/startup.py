"""The time that a world takes to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from umem import config
from umem.errors import WorldError

from ..harness.case import Case
from ..harness.side import HOME_NONE, NO_SEMANTICS, Options, Point, Side
from ..harness.stats import Samples
from ..harness.workers import Workers
from .registry import register

_SCRIPT = "import umem\numem.init().close()\n"
_RUN_TIMEOUT_S = 300.0  # cold, everything compiles


class ProgramSide(Side):
    """A program from start to end. `cold`: with an empty folder of compiled kernels each time."""

    def __init__(
        self, name: str, command: Sequence[str], script: str, peer: str | None = None, cold: bool = False
    ):
        super().__init__(name, NO_SEMANTICS, peer)
        self._command, self._script, self._cold = list(command), script, cold

    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="umem-bench-")
        path = Path(self._folder.name) / "script.py"
        path.write_text(self._script)
        self._command.append(str(path))

    def block(self, num_samples: int) -> Samples:
        return np.array([self._seconds() for _ in range(num_samples)])

    def _seconds(self) -> float:
        environment = config.snapshot()
        with tempfile.TemporaryDirectory(prefix="umem-bench-") as cache:
            if self._cold:
                environment["UMEM_CACHE"] = cache
            begin = time.perf_counter()
            done = subprocess.run(
                self._command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_RUN_TIMEOUT_S,
                check=False,
            )
            elapsed_s = time.perf_counter() - begin
        if done.returncode:
            raise WorldError(f"{' '.join(self._command)} failed: {done.stderr.strip()[-400:]}")
        return elapsed_s

    def close(self) -> None:
        self._folder.cleanup()


def run_command(num_ranks: int, world: str) -> list[str]:
    """`umem run` up to its script."""
    return [sys.executable, "-m", "umem", "run", "-n", str(num_ranks), "--world", world, "--segment", "64M"]


@register
class Startup(Case):
    """The start of eight ranks against that of one."""

    key = "startup.ranks"
    description = (
        "umem run -n 8 of a script that opens and closes its space, against -n 1; cold: nothing compiled yet"
    )
    limit_side = "ranks_1"
    min_ranks = 1
    most_samples = 1
    home = HOME_NONE
    budget_s = 5.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("cold", cold),)) for cold in (0, 1)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(0, (("cold", 0),))]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        cold, world = bool(point.setting("cold", 0)), workers.options.world
        return [
            ProgramSide("ranks_8", run_command(8, world), _SCRIPT, cold=cold),
            ProgramSide("ranks_1", run_command(1, world), _SCRIPT, peer="1 rank", cold=cold),
        ]


@register
class Run(Case):
    """The command `umem run`."""

    key = "startup.run"
    description = "umem run -n 2 of an empty script, against python -c 'import numba'"
    limit_side = "import_numba"
    min_ranks = 1
    most_samples = 1
    home = HOME_NONE
    budget_s = 4.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        command = run_command(2, workers.options.world)
        return [
            ProgramSide("umem_run", command, ""),
            ProgramSide("import_numba", [sys.executable], "import numba\n", peer="import numba"),
        ]
