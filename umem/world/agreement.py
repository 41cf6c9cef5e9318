"""Collective work that may fail at one rank: all ranks go on, or all raise, and none is left waiting."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import UmemError, WorldError


class Members(Protocol):
    """A world, as far as an agreement needs one."""

    def exchange(self, key: str, blob: bytes, timeout_s: float | None = None) -> list[bytes]:
        """All-gather of blobs."""


def agree(world: Members, title: str, work: Callable[[], Any]) -> list[Any]:
    """Do `work` in every rank; returns the results, by rank. Collective: every rank, each `title` in the same order.

    Where it raised, the error of the lowest such rank is raised at every rank, its text begun with `title` and that
    rank: an error of umem as itself; any other as itself at its own rank, and as WorldError elsewhere.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - the others wait to hear of any error
        failure = error
    own = pickle.dumps((result, _as_sent(failure)))
    of_all = [pickle.loads(blob) for blob in world.exchange(title, own)]
    failed = [(rank, first) for rank, (_, first) in enumerate(of_all) if first is not None]
    if not failed:
        return [result for result, _ in of_all]
    rank, first = failed[0]
    if failure is not None and not isinstance(failure, UmemError) and str(_as_sent(failure)) == str(first):
        raise failure
    first.args = (f"{title}, at rank {rank}: {first.args[0]}", *first.args[1:])
    raise first from failure


def _as_sent(error: Exception | None) -> UmemError | None:
    """The error as every rank can unpickle and catch it."""
    if error is None or isinstance(error, UmemError):
        return error
    return WorldError(f"{type(error).__name__}: {error}")
