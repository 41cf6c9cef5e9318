"""Mixtures of experts: dispatch and combine of both semantics against plain NumPy and plain torch."""

from __future__ import annotations

import pytest

import umem
from tests.worlds import checks_moe as checks
from umem.errors import LaunchError


def test_rows_and_sums_are_those_of_numpy_and_of_any_number_of_ranks():
    digests = {ranks: umem.launch(checks.check_cases, ranks, segment="256M") for ranks in (1, 2, 4)}
    # Where no member maps another's memory, a team and its rows go by messages.
    digests["messages"] = umem.launch(checks.check_cases, 2, segment="256M", world="no-peer-access")
    assert len(set(digests.values())) == 1, digests


def test_rows_that_are_held_stay():
    umem.launch(checks.check_holding, 2, segment="64M")


def test_what_is_refused():
    umem.launch(checks.check_refusals, 2, segment="8M", timeout_s=20)


def test_a_member_that_dies(tmp_path):
    with pytest.raises(LaunchError, match="SIGKILL"):
        umem.launch(checks.check_death, 2, segment="64M", timeout_s=20, args=(tmp_path / "seen",))
    assert (tmp_path / "seen").read_text() == "lost rank 1"


def test_gradients():
    pytest.importorskip("torch")
    umem.launch(checks.check_gradients, 2, segment="64M")
