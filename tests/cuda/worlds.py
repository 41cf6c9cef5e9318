"""Worlds of GPU ranks on the driver that executes: ranks load it where they would load NVIDIA's.

With UMEM_GPU_TESTS=real the same tests (`-m gpu`) run on the driver and devices of the machine: scripts/gpu-check.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import umem
from umem.world import launcher

HERE = Path(__file__).parent
START_PARENT = launcher.start_parent
MODES: dict[str, dict[str, int]] = {"plain": {}, "weak": {"weak": 1}, "strict": {"strict": 1}}
IS_REAL = os.environ.get("UMEM_GPU_TESTS") == "real"
MOST_RANKS = 8
COUNT_DEVICES = "from umem.memory.device.cuda import num_devices; print(num_devices())"


def places(fake: Sequence[Any]) -> list[Any]:
    """(ranks, device, mode) of a suite's worlds: `fake` on the driver that executes; else one device, all of them,
    and one beside a rank of the CPU."""
    if not IS_REAL:
        return list(fake)
    counted = subprocess.run(  # not in this process, which a driver would follow from then on
        [sys.executable, "-c", COUNT_DEVICES], check=True, capture_output=True, text=True, timeout=60
    )
    count = int(counted.stdout)
    all_devices = [(min(count, MOST_RANKS), "cuda", "real")] if count > 1 else []
    return [(2, "cuda:0", "real"), *all_devices, (2, "cuda,cpu", "real")]


@dataclass(frozen=True)
class GpuWorlds:
    """Launches on the driver in the folder `driver`, which keeps machine code in `cache`; without, on the machine's."""

    driver: Path | None = None
    cache: Path | None = None

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
        found = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables: dict[str, str] = {"UMEM_GPU_TESTS": ""}  # ranks that import a test choose no worlds
        if self.driver is not None and self.cache is not None:
            from driver.build import environment

            variables = environment(self.driver, self.cache, **MODES[mode], **(fake or {}))
        options = {"segment": "64M", "timeout_s": 60, "results": "all", **options}
        with (
            mock.patch.object(launcher, "start_parent", START_PARENT),
            mock.patch.dict(os.environ, {**variables, "PYTHONPATH": found}),
        ):
            return umem.launch(work, ranks=ranks, device=device, **options)
