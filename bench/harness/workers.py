"""The worker processes of a run of the benchmark, with its options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from umem import config
from umem.units import MIB

from .side import Options
from .wire import CALL_TIMEOUT_S, Group

STRIPED_FRACTION = 0.25
SEGMENT_BYTES = 640 * MIB  # holds the rotating buffers of a 64 MiB copy


class Workers:
    """The worker processes and the options of one run. Use as a context manager: it ends every worker.

    Groups start when a case first needs them and stay, asleep, for the cases after it. A block that takes longer
    than `call_timeout_s` ends its group.
    """

    def __init__(self, options: Options, call_timeout_s: float = CALL_TIMEOUT_S):
        self.options, self.call_timeout_s = options, call_timeout_s
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

        `preload` names modules that they need besides those of bench/parts; `line_cache` is the size of a rank's
        cache of other ranks' lines.
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
            return [sys.executable, "-m", "umem.bench.parts.ranks", path, text, *preload]

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
        """The group of this key: the existing one unless it is broken, else a new one."""
        if key not in self._groups:
            full = None if environment is None else {**config.snapshot(), **environment}
            self._groups[key] = Group(name, command, num_workers, full, self.call_timeout_s)
        return self._groups[key]

    def discard_broken(self) -> None:
        """Forget groups that have died, so that the next case gets new ones."""
        for key in [key for key, group in self._groups.items() if group.has_died]:
            del self._groups[key]

    def close(self) -> None:
        """End every worker."""
        for group in self._groups.values():
            group.close()
        self._groups = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
