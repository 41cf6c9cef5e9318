"""The base of the cases under torch. Nothing here imports torch: the ranks do."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import ClassVar

from ..harness.case import Case
from ..harness.side import Options
from ..harness.wire import Group
from ..harness.workers import Workers

TORCH_PARTS = "umem.bench.parts.torch"
_PRELOAD = ("torch", "umem.torch.attach", "umem.torch.offload")
TRAINED_MODELS = ("mlp", "transformer")


class TorchCase(Case):
    """A case in ranks that map each other and have torch; rank 0 works in the memory of rank 1."""

    worlds = ("mapped",)
    home: ClassVar[str] = "rank 1"

    def waived(self, options: Options, brief: bool = False) -> str | None:
        if find_spec("torch") is None:
            return "torch is not installed: scripts/setup torch"
        return super().waived(options, brief)


def torch_ranks(workers: Workers) -> Group:
    """Two ranks with torch: the same for all cases under torch, and for no others, which its threads would disturb."""
    return workers.ranks(num_ranks=2, preload=_PRELOAD)


def alone(workers: Workers, library: str | None = None) -> Group:
    """A process without a space, with `library` preloaded instead of glibc's malloc."""
    environment = {"LD_PRELOAD": library} if library else None

    def command(path: str) -> list[str]:
        return [sys.executable, "-m", "umem.bench.harness.alone", path]

    name = f"a process with {library or 'glibc'}"
    return workers.group(("alone", library), name, command, 1, environment)
