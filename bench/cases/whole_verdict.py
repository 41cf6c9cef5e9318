"""`umem verdict` as a whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..harness.case import Case
from ..harness.side import HOME_NONE, Options, Point, Side
from ..harness.workers import Workers
from .import_time import ConstantSide
from .registry import register
from .startup import ProgramSide

LIMIT_S = 90.0
_SCRIPT = """
import sys, tempfile
from umem.cli import app
with tempfile.TemporaryDirectory() as folder:
    sys.exit(app.main(["verdict", "--report", folder + "/report.html"]))
"""


@register
class WholeVerdict(Case):
    """The time of `umem verdict`."""

    key = "verdict"
    description = "umem verdict from start to end, against 90 s"
    limit_side = "seconds_90"
    most_samples = 1
    home = HOME_NONE
    budget_s = 0.0  # no part of itself

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        return [
            ProgramSide("verdict", [sys.executable], _SCRIPT),
            ConstantSide("seconds_90", LIMIT_S, "90 s"),
        ]
