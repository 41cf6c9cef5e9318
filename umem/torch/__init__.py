"""umem under torch: its CPU allocator draws from any rank's memory, and tensors travel by address.

    with umem.init() as space:
        umem.torch.install(space)
        with umem.torch.use_pool(home=1):     # what torch allocates here lives in rank 1's memory
            model = MyModel()

layout and callbacks (the compiled code inside torch's allocator), c10 and shim (putting it in force), memory and
threads (each thread's part), uses, pool (use_pool), closing, cuda_callbacks and cuda (the same for a GPU), attach
(install), parts and placement, flight, borrow and sharing, offload, moe, embedding, summary. For torch.distributed:
backend, process_group (what torch takes), group_calls (collectives), group_messages, works (what torch waits on, and
the thread that works meanwhile), shrinking. Floor 7. Nothing here is loaded, and torch is not imported, before one of
the names below is used. Where torch has been imported before, it then knows the backend "umem".
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import TorchMissing

# public name -> module that defines it
_HOMES = {
    "Embedding": "embedding",
    "EmbeddingBag": "embedding",
    "GroupOptions": "process_group",
    "MoeExchange": "moe",
    "SparseOptimizer": "embedding",
    "adopt": "placement",
    "empty": "placement",
    "home": "placement",
    "install": "attach",
    "memory_summary": "summary",
    "offload_activations": "offload",
    "offload_optimizer": "offload",
    "recv": "sharing",
    "send": "sharing",
    "shrink": "shrinking",
    "to_home": "placement",
    "use_gpu_pool": "cuda",
    "use_pool": "pool",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from .attach import install as install
    from .cuda import use_gpu_pool as use_gpu_pool
    from .embedding import Embedding as Embedding
    from .embedding import EmbeddingBag as EmbeddingBag
    from .embedding import SparseOptimizer as SparseOptimizer
    from .moe import MoeExchange as MoeExchange
    from .offload import offload_activations as offload_activations
    from .offload import offload_optimizer as offload_optimizer
    from .placement import adopt as adopt
    from .placement import empty as empty
    from .placement import home as home
    from .placement import to_home as to_home
    from .pool import use_pool as use_pool
    from .process_group import GroupOptions as GroupOptions
    from .sharing import recv as recv
    from .sharing import send as send
    from .shrinking import shrink as shrink
    from .summary import memory_summary as memory_summary


if "torch.distributed" in sys.modules:
    from .backend import register

    register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'umem.torch' has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise TorchMissing(
            f"umem.torch.{name} needs torch, which is not installed: scripts/setup torch"
        ) from None
    import_module(f"{__name__}.backend").register()
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
