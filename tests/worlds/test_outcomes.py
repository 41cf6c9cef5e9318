"""A check that fails in one rank ends the suite in all, whatever kind of failure it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from .outcomes import run_checks


def no_error_comes(space):
    with pytest.raises(ValueError):
        pass


def an_error_comes(space):
    raise ValueError(3)


@pytest.mark.parametrize("check", [no_error_comes, an_error_comes])
def test_a_failed_check_is_told_to_the_peers(check):
    told = []

    def exchange(name, start):
        told.append(start)
        return told

    space = SimpleNamespace(world=SimpleNamespace(exchange=exchange))
    outcomes = run_checks(space, {"first": check, "second": check})
    assert outcomes.keys() == {"first", "stopped"} and "Traceback" in outcomes["first"]
    assert told == [b"Tr"]
