"""From how many bytes on a team of CPUs goes another way: as `umem bench --tune` found on this machine, else defaults.

What was found stands in a file of the user's cache, with the machine that it is of. The members of a team take those of
its first member.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from .. import limits
from ..files import cached
from ..kernels.data.copy import default_stream_bytes
from .common_memory import HALF_BYTES

EAGER_BYTES = 32 << 10
TWO_SHOT_BYTES = 16 << 10
_FOLDER, _FILE = "tuned", "teams.json"
_UNIT_BYTES = 64


@dataclass(frozen=True)
class Thresholds:
    """Sizes in bytes.

    Up to `eager` buffers that all members reach are staged too; from `two_shot` on members of a team of more than two
    reduce a slice each of what is staged; `half` is a half of a member's staging memory, and holds what is staged at
    once; from `stream` on stores go around the caches.
    """

    half: int
    eager: int
    two_shot: int
    stream: int

    def __post_init__(self) -> None:
        if (
            not 0 <= self.eager <= self.half
            or self.half % _UNIT_BYTES
            or min(astuple(self)) < 0
            or not self.half
        ):
            raise ValueError(f"{self} are no thresholds: what is staged eagerly is staged at once")

    def text(self) -> str:
        """The numbers in one word, as `parse` reads it."""
        return ",".join(map(str, astuple(self)))

    @staticmethod
    def parse(text: str) -> Thresholds:
        """What `text` wrote."""
        return Thresholds(*map(int, text.split(",")))


def defaults() -> Thresholds:
    """What holds where nothing was measured."""
    return Thresholds(HALF_BYTES, EAGER_BYTES, TWO_SHOT_BYTES, default_stream_bytes())


def of_this_machine() -> Thresholds:
    """What was found here, or defaults."""
    for path in _paths():
        try:
            document = json.loads(path.read_text())
            if document["machine"] == _machine():
                found = document["thresholds"]
                return Thresholds(**{field.name: int(found[field.name]) for field in fields(Thresholds)})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # nothing was kept, or it is damaged: as if it were not there
    return defaults()


def keep(found: Thresholds) -> Path | None:
    """Have teams of this machine take these from now on; the file, or None where none can be written."""
    folder = cached.folder(_FOLDER, _FILE)
    if folder is None:
        return None
    path = folder / _FILE
    path.write_text(json.dumps({"machine": _machine(), "thresholds": asdict(found)}, indent=1) + "\n")
    return path


def forget() -> None:
    """Have teams take defaults again."""
    for path in _paths():
        path.unlink(missing_ok=True)


def _paths() -> list[Path]:
    folder = cached.folder(_FOLDER, _FILE)
    return [] if folder is None else [folder / _FILE]


@functools.cache
def _machine() -> str:
    return f"{limits.cpu_model()}, {len(limits.usable_cores())} cores"
