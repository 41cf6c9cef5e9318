"""Processes that a rank forks: they have copies of its connections, its locks and its name, and are no ranks.

Whatever acts in a rank's name `belongs_here`. In a forked child, before a line of the child's own runs, each such thing
is told to `disown` itself: from then on its public methods raise ForkedRank, and the child's end touches nothing of
the rank's. The hot paths of the rank check nothing for it.
"""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NoReturn, Protocol

from ..errors import ForkedRank, UmemError

MakeError = Callable[[], UmemError]


class Belonging(Protocol):
    """Something that acts in the name of a rank."""

    @property
    def rank(self) -> int:
        """The rank."""

    def disown(self, make_error: MakeError) -> None:
        """Let go of all that is the rank's, and raise `make_error()` from every method that needs it. In a forked
        child, once."""


def belongs_here(thing: Belonging) -> None:
    """Have `thing` disowned in every process that this one forks, as long as it lives."""
    _owners[thing] = os.getpid()


def refuse(thing: Any, make_error: MakeError, keep: Collection[str] = ()) -> None:
    """Have every public method of `thing` raise `make_error()` from now on, except those in `keep`."""

    def refusal(*_: Any, **__: Any) -> NoReturn:
        raise make_error()

    for name, _ in inspect.getmembers_static(type(thing), inspect.isfunction):
        if not name.startswith("_") and name not in keep:
            setattr(thing, name, refusal)


_owners: weakref.WeakKeyDictionary[Belonging, int] = weakref.WeakKeyDictionary()


def _disown_all() -> None:
    for thing, pid in list(_owners.items()):
        thing.disown(partial(ForkedRank, thing.rank, pid))
    _owners.clear()  # a child of this child finds it done


os.register_at_fork(after_in_child=_disown_all)
