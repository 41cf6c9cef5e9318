"""Bring torch's allocator, its pickling and a space together."""

from __future__ import annotations

from typing import get_args

from ..errors import ConfigError
from ..space.space import Space
from ..units import parse_size
from . import sharing
from .closing import AtClose
from .pool import installed, open_pool


def install(
    space: Space,
    at_close: AtClose = "warn",
    lease_s: float | None = None,
    gpu_bytes: int | str | None = None,
) -> None:
    """Make torch's CPU allocator able to serve from `space`; nothing changes until `use_pool`.

    With `gpu_bytes` ("8G") that much memory of torch's current GPU is set aside for `use_gpu_pool`.
    `at_close` decides the close of the space while tensors of the pool are alive that no collection frees. "warn" and
    "detach", the latter without a warning, let their memory stay mapped until the process ends, which can then open
    no other space. "refuse" raises WorldError with a list of them and leaves the space open. After an exception the
    space closes in any case, silently. A tensor that is sent and never received is kept for `lease_s` (the space's
    timeout unless given). Installing into the same space again changes only these two, and may add `gpu_bytes`.
    Raises WorldError in a forked child, or where the space is closed; AllocatorRefused where torch's allocator cannot
    be replaced; DeviceMissing where torch has no CUDA.
    """
    if at_close not in get_args(AtClose):
        raise ConfigError(f"at_close={at_close!r} is none of {', '.join(map(repr, get_args(AtClose)))}")
    if lease_s is not None and not lease_s > 0:
        raise ConfigError(f"lease_s={lease_s!r} must be above 0")
    open_pool(space, at_close, space.timeout_s if lease_s is None else lease_s)
    sharing.register(installed())
    if gpu_bytes is not None:
        from .cuda import open_gpu_pool

        open_gpu_pool(space, at_close, parse_size(gpu_bytes))
