"""One run of the benchmark: its cases, its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from umem import limits
from umem.errors import UmemError

from . import host
from .case import Case
from .rows import Results, Row, Status
from .side import Measured, Options, Point, Side
from .stats import Samples, Summary, summarize
from .timing import Depth, close_sides, measure, open_sides
from .wire import CALL_TIMEOUT_S
from .workers import Workers

_ROUNDS = 10  # blocks a side gets at a point of `umem bench`


class Bench(Workers):
    """One run: measures cases with its workers, and makes rows of the samples."""

    def __init__(self, options: Options, call_timeout_s: float = CALL_TIMEOUT_S):
        super().__init__(options, call_timeout_s)
        self.machine = host.machine()

    def run(self, case: Case, depth: Depth | None = None, brief: bool = False) -> Results:
        """Measure a case: its rows, and a note for every side that could not run."""
        reason = case.waived(self.options, brief)
        if reason is not None:
            row = self._empty_row(case, Status.WAIVED)
            kind = "no meaning" if case.meaningless(self.options) else "waived"
            return Results(self.machine, (row,), (f"{kind}: {case.key}: {reason}",))
        points = case.brief_points(self.options) if brief else case.points(self.options)
        each = (depth or self.depth(case)).shared_by(len(points))
        rows: list[Row] = []
        notes: list[str] = []
        for point in points:
            found = self.measure_point(case, point, each)
            rows += found.rows
            notes += [note for note in found.notes if note not in notes]
        return Results(self.machine, tuple(rows), tuple(notes))

    def depth(self, case: Case) -> Depth:
        """The depth of `umem bench`: --iters samples a side and point, in _ROUNDS blocks."""
        per_block = max(1, -(-self.options.iters // _ROUNDS))
        return Depth(min(_ROUNDS, self.options.iters), min(per_block, case.most_samples), self.options.warmup)

    def measure_point(self, case: Case, point: Point, depth: Depth) -> Results:
        """The rows of all sides of one point, measured in turns."""
        wanted = [side for side in case.sides(self, point) if self._is_wanted(side)]
        num_cores = len(limits.usable_cores())
        sides = [side for side in wanted if side.min_cores <= num_cores]
        opened: list[Side] = []
        try:
            opened, missing = open_sides(sides)
            measured, lacking = measure(opened, point, depth)
        except UmemError as error:
            self.discard_broken()
            row = self._empty_row(case, Status.ERROR, point)
            return Results(self.machine, (row,), (f"error: {case.key}: {type(error).__name__}: {error}",))
        finally:
            close_sides(opened)
            self.discard_broken()
        rows = self.rows(case, [side for side in opened if side.name in measured.blocks], measured)
        notes = [f"remark: {case.key}: {remark}" for remark in case.remarks(measured)]
        for lack in missing + lacking:
            status = Status.WAIVED if lack.is_waived else Status.ERROR
            rows.append(self._empty_row(case, status, point, lack.side))
            notes.append(f"{status.lower()}: {case.key}, {lack.side.name}: {lack.error}")
        for side in [side for side in wanted if side not in sides]:
            rows.append(self._empty_row(case, Status.WAIVED, point, side))
            needs = f"needs {side.min_cores} cores and has {num_cores}"
            notes.append(f"no meaning: {case.key}, {side.name}: {needs}")
        return Results(self.machine, tuple(rows), tuple(notes))

    def _is_wanted(self, side: Side) -> bool:
        chosen = side.peer is not None or side.semantics in self.options.semantics
        return chosen or side.semantics == "none"

    def rows(self, case: Case, sides: Sequence[Side], measured: Measured) -> list[Row]:
        """One row a side; the limit's own figure stands in each."""
        summaries = {side.name: summarize(all_samples(measured, side)) for side in sides}
        limit = summaries.get(case.limit_side) if case.limit_side else None
        return [self._row(case, side, measured, summaries[side.name], limit) for side in sides]

    def _row(
        self, case: Case, side: Side, measured: Measured, summary: Summary, limit: Summary | None
    ) -> Row:
        moved = case.bytes_moved(measured.point)
        gbps = moved / summary.p50 / 1e9 if moved and summary.p50 else None
        empty = self._empty_row(case, Status.PASSED, measured.point, side)
        errors = measured.errors[side.name]
        values: dict[str, Any] = {
            **empty.__dict__,
            "p50_us": summary.p50 * 1e6,
            "p99_us": summary.p99 * 1e6,
            "cv": summary.cv,
            "samples": summary.num_samples,
            "gbps": gbps,
            "errors": errors,
            "status": str(Status.PASSED if errors == 0 else Status.ERROR),
        }
        if limit is not None:
            values["limit_name"] = case.limit_side
            values["limit"] = moved / limit.p50 / 1e9 if case.about == "rate" else limit.p50 * 1e6
            values["fraction_of_limit"] = limit.p50 / summary.p50
        return Row(**values)

    def _empty_row(
        self, case: Case, status: Status, point: Point | None = None, side: Side | None = None
    ) -> Row:
        words = [point.label] if point is not None and point.settings else []
        words += [side.detail] if side is not None and side.detail else []
        label = f"[{' '.join(words)}]" if words else ""
        semantics = side.semantics if side else case.semantics[0]
        return Row(
            case=case.key + label,
            semantics=semantics,
            peer=side.peer if side else None,
            transport=side.transport if side else "",
            world=self.options.world,
            cache=side.cache if side else "none",
            home=case.home,
            ranks=self.options.ranks,
            bytes=point.num_bytes if point else 0,
            p50_us=None,
            p99_us=None,
            cv=None,
            samples=0,
            gbps=None,
            errors=0,
            limit_name=None,
            limit=None,
            fraction_of_limit=None,
            status=str(status),
            host=str(self.machine["host"]),
            version=str(self.machine["version"]),
            commit=str(self.machine["commit"]),
            seed=self.options.seed,
            pair=" ".join([case.key, str(point.num_bytes), point.label]).strip() if point else case.key,
        )


def all_samples(measured: Measured, side: Side) -> Samples:
    """Every sample of a side, over all its blocks."""
    return np.concatenate(measured.blocks[side.name])
