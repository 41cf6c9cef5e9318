"""Compiles kernels and hardware.c before any clock starts, so that no measurement waits for them.

A process of its own does it, on all cores and with a line on stderr where there is something to do: it forks, so it
must have one thread, and the driver need not load a compiler.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import suppress

from umem.errors import Waived
from umem.world.spec import MAPPED

_TIMEOUT_S = 1800.0  # everything, cold, on one slow core


def prepare(world: str) -> None:
    """Compile into the cache all kernels that ranks of `world` load for any case, and hardware.c.

    A kernel that does not compile is left out: the process that loads it gets the error.
    """
    command = [sys.executable, "-m", "umem.bench.prepare", world]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=_TIMEOUT_S)


def main() -> None:
    """The process that `prepare` starts."""
    from umem.kernels.build.precompile import precompile
    from umem.space.ahead import kernel_groups

    from .harness import hardware
    from .parts.ranks import part_modules

    (world,) = sys.argv[1:]
    for name in part_modules():
        importlib.import_module(name)
    precompile(groups=kernel_groups(world == MAPPED), min_missing=1)
    with suppress(Waived):
        hardware.load()


if __name__ == "__main__":
    main()
