"""Collective work that fails somewhere fails everywhere, by the error of the lowest rank that met one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from umem.errors import ConfigError, UmemError, WorldError
from umem.world.agreement import agree


class Others:
    """A world in which the other ranks have told `told` already; this is the rank at `rank`."""

    def __init__(self, told: list[Any], rank: int):
        self.told, self.rank = told, rank
        self.heard: Any = None  # what they hear of this rank

    def exchange(self, key: str, blob: bytes, timeout_s: float | None = None) -> list[bytes]:
        """Everybody's blob."""
        blobs = [pickle.dumps(one) for one in self.told]
        blobs[self.rank], self.heard = blob, pickle.loads(blob)
        return blobs


def fail(error: Exception) -> Callable[[], Any]:
    """Work that raises."""

    def work() -> Any:
        raise error

    return work


RIGHT, WRONG, WORSE = (7, None), (None, ConfigError("too wide")), (None, ConfigError("too high"))


def test_results_come_by_rank():
    assert agree(Others([RIGHT, RIGHT, (9, None)], 1), "made", lambda: 8) == [7, 8, 9]


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_the_lowest_rank_that_failed_is_told_at_all(rank):
    told = [RIGHT, WRONG, RIGHT, WORSE]
    work = fail(ConfigError("too high")) if rank == 3 else lambda: 7
    with pytest.raises(ConfigError, match=r"^made, at rank 1: too wide$"):
        agree(Others(told, rank), "made", work)


def test_an_error_that_is_not_umems_is_itself_at_its_rank_and_told_to_the_others():
    others = Others([RIGHT, RIGHT], 0)
    with pytest.raises(ZeroDivisionError):
        agree(others, "made", fail(ZeroDivisionError("by 0")))
    _, error = others.heard
    assert type(error) is WorldError and str(error) == "ZeroDivisionError: by 0", "and none is left waiting"
    told = (None, WorldError("ZeroDivisionError: by 0"))
    with pytest.raises(WorldError, match="at rank 0: ZeroDivisionError: by 0"):
        agree(Others([told, RIGHT], 1), "made", lambda: 7)


def test_an_error_of_umem_says_at_its_own_rank_too_where_it_was():
    with pytest.raises(UmemError, match=r"^made, at rank 1: too wide$"):
        agree(Others([RIGHT, RIGHT], 1), "made", fail(ConfigError("too wide")))
