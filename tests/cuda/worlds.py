"""Worlds of GPU ranks on the driver that executes: ranks load it where they would load NVIDIA's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import umem
from umem.world import launcher

HERE = Path(__file__).parent
START_PARENT = launcher.start_parent
MODES: dict[str, dict[str, int]] = {"plain": {}, "weak": {"weak": 1}, "strict": {"strict": 1}}


@dataclass(frozen=True)
class GpuWorlds:
    """Launches on the driver in the folder `driver`, which keeps machine code in `cache`."""

    driver: Path
    cache: Path

    def launch(
        self,
        work: Callable[..., Any],
        ranks: int = 2,
        device: str = "cuda",
        mode: str = "plain",
        fake: dict[str, int] | None = None,
        **options: Any,
    ) -> Any:
        """umem.launch, with every rank's result. The ranks' parent is a program of its own, started with the driver;
        `fake` are more of its options (driver/c/driver.h)."""
        from driver.build import environment

        found = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = environment(self.driver, self.cache, **MODES[mode], **(fake or {}))
        options = {"segment": "64M", "timeout_s": 60, "results": "all", **options}
        with (
            mock.patch.object(launcher, "start_parent", START_PARENT),
            mock.patch.dict(os.environ, {**variables, "PYTHONPATH": found}),
        ):
            return umem.launch(work, ranks=ranks, device=device, **options)
