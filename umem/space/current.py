"""The one open space of this process, for those who find it by no other way: unpickled arrays, torch hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import WorldError

if TYPE_CHECKING:
    from .space import Space

_space: Space | None = None
_is_taken = False  # a space has closed and left its memory mapped, at the addresses of any other


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


def leave_mapped() -> None:
    """Note that the memory of a space stays mapped although the space has closed."""
    global _is_taken
    _is_taken = True


def check_free() -> None:
    """Raise WorldError where this process can open no space."""
    if _space is not None and _space.is_open:  # that of a forked child is not; joining says so
        raise WorldError("this process already has an open space; close it first")
    if _is_taken:
        raise WorldError(
            "this process can open no other space: one closed while numpy views or torch tensors of its memory were"
            " alive, or a thread was in a call of it, so that memory stays mapped until the process ends. Delete them"
            " before the space closes, or open the next space in a new process"
        )
