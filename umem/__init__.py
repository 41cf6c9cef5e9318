"""umem: one memory across devices in software, messages beside it, and measurements of both.

The public names load on first use, so that `import umem` costs no more than this file: no NumPy,
Numba, torch, CuPy or UCX.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if "t" in sys.abiflags:
    from .errors import UnsupportedPython

    raise UnsupportedPython(sys.executable)

__version__ = "0.1.0"

# public name -> module that defines it
_HOMES = {
    "Array": "umem.space.array",
    "EmbeddingTable": "umem.embedding.table",
    "Space": "umem.space.space",
    "Team": "umem.collectives.team",
    "WorldSpec": "umem.world",
    "cupy_allocator": "umem.space.cupy_memory",
    "current_space": "umem.space.space",
    "init": "umem.space.space",
    "kernel": "umem.kernels.build.kernel",
    "launch": "umem.world",
}
# Packages that `import umem` is enough for: umem.torch.install(space). Not in __all__, where torch would hide torch.
_PACKAGES = ("moe", "torch")

__all__ = [
    "Array",
    "EmbeddingTable",
    "Space",
    "Team",
    "WorldSpec",
    "__version__",
    "cupy_allocator",
    "current_space",
    "init",
    "kernel",
    "launch",
]

if TYPE_CHECKING:
    from . import moe as moe
    from . import torch as torch
    from .collectives.team import Team as Team
    from .embedding.table import EmbeddingTable as EmbeddingTable
    from .kernels.build.kernel import kernel as kernel
    from .space.array import Array as Array
    from .space.cupy_memory import cupy_allocator as cupy_allocator
    from .space.space import Space as Space
    from .space.space import current_space as current_space
    from .space.space import init as init
    from .world import WorldSpec as WorldSpec
    from .world import launch as launch


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'umem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
