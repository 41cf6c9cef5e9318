"""One run of the benchmark: its workers, its cases, its rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from umem import config
from umem.errors import UmemError
from umem.units import MIB

from . import host, peers
from .case import Case, Measured, Options, Point, Side
from .rows import Results, Row, Status
from .stats import Samples, Summary, summarize
from .timing import Depth, close_sides, measure, open_sides
from .wire import CALL_TIMEOUT_S, Group

ROUNDS = 10  # blocks a side gets at a point of `umem bench`
STRIPED_FRACTION = 0.25
SEGMENT_BYTES = 640 * MIB  # holds the rotating buffers of a 64 MiB copy


class Bench:
    """The workers and the choices of one run. Use as a context manager: it ends every worker.

    Groups start when a case first needs them and stay, asleep, for the cases after it. A block that takes longer
    than `call_timeout_s` ends its group.
    """

    def __init__(self, options: Options, call_timeout_s: float = CALL_TIMEOUT_S):
        self.options, self.call_timeout_s = options, call_timeout_s
        self.machine = host.machine()
        self.rng = np.random.default_rng(options.seed)
        self._groups: dict[tuple[object, ...], Group] = {}

    def ranks(
        self,
        num_ranks: int | None = None,
        world: str | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        hosts: int | None = None,
        preload: Sequence[str] = (),
        line_cache: str | None = None,
    ) -> Group:
        """The ranks of a world of umem, not started yet; the same call gives the same ranks.

        `preload` names modules that they need besides those of bench/parts; `line_cache` is how much a rank
        keeps of lines of others.
        """
        num_ranks = num_ranks or self.options.ranks
        spec: dict[str, Any] = {
            "ranks": num_ranks,
            "world": world or self.options.world,
            "segment": segment_bytes,
            "striped_fraction": STRIPED_FRACTION,
        }
        if hosts is not None:
            spec["hosts"] = hosts
        if line_cache is not None:
            spec["line_cache"] = line_cache
        text = json.dumps(spec)

        def command(path: str) -> list[str]:
            return [sys.executable, "-m", "umem.bench.ranks", path, text, *preload]

        return self.group(
            ("umem", text, *preload), f"world {spec['world']} of {num_ranks} ranks", command, num_ranks
        )

    def group(
        self,
        key: tuple[object, ...],
        name: str,
        command: Callable[[str], list[str]],
        num_workers: int,
        environment: dict[str, str] | None = None,
    ) -> Group:
        """The group of this key: an existing one that is not broken, or a new one."""
        if key not in self._groups:
            full = None if environment is None else {**config.snapshot(), **environment}
            self._groups[key] = Group(name, command, num_workers, full, self.call_timeout_s)
        return self._groups[key]

    def peer_sides(self, operation: str, point: Point) -> list[Side]:
        """A side for every chosen peer that knows `operation`."""
        return peers.sides(self, self.options.peers, operation, point)

    def run(self, case: Case, depth: Depth | None = None, brief: bool = False) -> Results:
        """Measure a case: its rows, and a note for whatever could not run."""
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
        """How deep `umem bench` samples: --iters samples a side and point, in ROUNDS blocks."""
        per_block = max(1, -(-self.options.iters // ROUNDS))
        return Depth(min(ROUNDS, self.options.iters), min(per_block, case.most_samples), self.options.warmup)

    def measure_point(self, case: Case, point: Point, depth: Depth) -> Results:
        """Rows of all sides of one point, measured in turns."""
        wanted = [side for side in case.sides(self, point) if self._is_wanted(side)]
        num_cores = len(config.usable_cores())
        sides = [side for side in wanted if side.min_cores <= num_cores]
        opened: list[Side] = []
        try:
            opened, missing = open_sides(sides)
            measured, lacking = measure(opened, point, depth)
        except UmemError as error:
            self._discard_broken()
            row = self._empty_row(case, Status.ERROR, point)
            return Results(self.machine, (row,), (f"error: {case.key}: {type(error).__name__}: {error}",))
        finally:
            close_sides(opened)
            self._discard_broken()
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

    def _discard_broken(self) -> None:
        """Forget groups that have died, so that the next case gets new ones."""
        for key in [key for key, group in self._groups.items() if group.has_died]:
            del self._groups[key]

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

    def close(self) -> None:
        """End every worker."""
        for group in self._groups.values():
            group.close()
        self._groups = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def all_samples(measured: Measured, side: Side) -> Samples:
    """Every sample of a side, over all its blocks."""
    return np.concatenate(measured.blocks[side.name])
