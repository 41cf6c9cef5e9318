"""The row: one line of results, the same in the table, in JSON and in CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from umem.errors import ConfigError


class Status(StrEnum):
    """The status of a row, in nvbandwidth's words."""

    PASSED = "Passed"
    WAIVED = "Waived"
    ERROR = "Error"


# Kind of a note, and the heading under which the report shows it.
NOTE_KINDS = {
    "remark": "Remarks",
    "no meaning": "What has no meaning here",
    "waived": "Not measured here",
    "error": "What failed",
}


@dataclass(frozen=True)
class Row:
    """One side of one case at one point.

    `p50_us`, `p99_us` and `cv` are of `samples` samples, each the time of one operation (or the mean
    of a batch where an operation is too short to be timed alone). `peer` is None for umem's own rows.
    `limit` is this machine's own figure, without umem: microseconds where the case is about time, GB/s
    where it is about bandwidth; `fraction_of_limit` is 1 at the limit and less below it. Rows that
    were measured in turns share `pair`. Numbers that a case does not have are None.
    """

    case: str
    semantics: str
    peer: str | None
    transport: str
    world: str
    cache: str
    home: str
    ranks: int
    bytes: int
    p50_us: float | None
    p99_us: float | None
    cv: float | None
    samples: int
    gbps: float | None
    errors: int
    limit_name: str | None
    limit: float | None
    fraction_of_limit: float | None
    status: str
    host: str
    version: str
    commit: str
    seed: int
    pair: str

    @property
    def identity(self) -> tuple[object, ...]:
        """The fields that two rows of the same measurement, in two runs, have in common."""
        side = (self.semantics, self.cache, self.peer, self.transport)
        return (self.case, *side, self.world, self.home, self.ranks, self.bytes)


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Results:
    """The results of one run of `umem bench`: rows, notes on them, and the machine.

    A note begins with its kind, one of NOTE_KINDS.
    """

    machine: Mapping[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def write_json(path: Path, results: Results) -> None:
    """Write `results` as one object with the keys machine, notes and rows."""
    document = {
        "machine": dict(results.machine),
        "notes": list(results.notes),
        "rows": [asdict(row) for row in results.rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_json(path: Path) -> Results:
    """Read a file of `write_json`. Raises ConfigError where it is missing or holds something else."""
    try:
        document = json.loads(path.read_text())
        rows = tuple(Row(**row) for row in document["rows"])
        return Results(document["machine"], rows, tuple(document["notes"]))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a result of `umem bench --json`: {error}") from error


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write `rows` with a header line; None becomes an empty field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
