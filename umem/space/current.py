"""The one open space of this process, for code that is handed no space: an array being unpickled."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..errors import WorldError


class Holder(Protocol):
    """A space, as far as its arrays need one."""

    @property
    def is_open(self) -> bool:
        """Whether this process can use it."""

    def get(self, dst: np.ndarray, address: int) -> None:
        """Fill `dst` from `address`."""

    def put(self, address: int, src: np.ndarray) -> None:
        """Copy `src` to `address`."""

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """The bytes at `address`, no copy."""

    def gpu_pointer(self, address: int, num_bytes: int) -> tuple[int, int]:
        """This rank's GPU, and its pointer of the bytes at `address`."""

    def reaches_by_cpu(self, address: int, num_bytes: int) -> bool:
        """Whether this rank's CPU loads and stores them."""

    def free(self, address: int) -> None:
        """Give memory back."""


_space: Holder | None = None
_is_taken = False  # a space has closed and left its memory mapped, at the addresses that any other would use


def opened() -> Holder:
    """The open space of this process. Raises WorldError where there is none."""
    if _space is None:
        raise WorldError("no space is open in this process; use umem.init() or umem.launch")
    return _space


def enter(space: Holder) -> None:
    """Make `space` the current one."""
    global _space
    assert _space is None, "a process has one space"
    _space = space


def leave(space: Holder) -> bool:
    """Forget `space`. Returns whether it was the current one."""
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
    if _space is not None and _space.is_open:  # in a forked child it is not open; joining raises there
        raise WorldError("this process already has an open space; close it first")
    if _is_taken:
        raise WorldError(
            "this process can open no other space: one closed while numpy views or torch tensors of its memory were"
            " alive, or a thread was in a call of it, so that memory stays mapped until the process ends. Delete them"
            " before the space closes, or open the next space in a new process"
        )
