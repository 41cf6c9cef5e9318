"""The one open space of this process, for those who find it by no other way: unpickled arrays, torch hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import WorldError

if TYPE_CHECKING:
    from .space import Space

_space: Space | None = None


def current_space() -> Space:
    """The open space of this process. Raises WorldError where there is none."""
    if _space is None:
        raise WorldError("no space is open in this process; use umem.init() or umem.launch")
    return _space


def enter(space: Space) -> None:
    """Make `space` the current one."""
    global _space
    assert _space is None, "a process has one space"
    _space = space


def leave(space: Space) -> bool:
    """Forget `space`; whether it was the current one."""
    global _space
    if _space is not space:
        return False
    _space = None
    return True


def is_open() -> bool:
    """Whether this process has an open space."""
    return _space is not None
