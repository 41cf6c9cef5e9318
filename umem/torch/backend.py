"""Make torch.distributed know the backend "umem". Loads nothing else before a group is made."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Register it; nothing where that has been done, or torch has no torch.distributed."""
    import torch.distributed as dist

    if dist.is_available() and "UMEM" not in dist.Backend._plugins:
        dist.Backend.register_backend("umem", _create, extended_api=True, devices=["cpu"])


def _create(opts: Any, options: Any = None) -> Any:
    from .process_group import create

    return create(opts, options)
