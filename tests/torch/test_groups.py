"""The backend "umem" of torch.distributed: a launch a number of ranks, a test a subject."""

from __future__ import annotations

import functools
import tempfile

import pytest

import umem
from umem.errors import LaunchError

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

from . import checks_groups, checks_groups_training, steps


@functools.cache
def outcomes(ranks: int, world: str) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as path:
        checks = {
            name: functools.partial(checks_groups.run, name=name, path=path) for name in checks_groups.CHECKS
        }
        return steps.launch(checks, ranks=ranks, world=world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ranks", "world"), [(1, "mapped"), (2, "mapped"), (4, "mapped"), (2, "no-peer-access")]
)
@pytest.mark.parametrize("check", checks_groups.CHECKS)
def test_groups(ranks, world, check):
    steps.judge(outcomes(ranks, world), check)


@pytest.mark.timeout(120)
def test_a_group_goes_on_without_a_rank_that_died(tmp_path):
    results = umem.launch(
        checks_groups_training.check_death,
        3,
        segment="64M",
        timeout_s=20,
        args=(str(tmp_path),),
        results="all",
        on_failure="continue",
        preload=steps.PRELOAD,
    )
    assert isinstance(results.pop(1), LaunchError)
    assert results == [None, None]


def test_a_rank_that_is_none_of_the_space_is_refused(tmp_path):
    umem.launch(
        checks_groups_training.check_refused, 2, segment="64M", args=(str(tmp_path),), preload=steps.PRELOAD
    )


def test_a_group_that_fails_leaves_no_space_open():
    import torch.distributed as dist

    from umem.space import current
    from umem.torch.process_group import GroupOptions

    with pytest.raises(umem.errors.WorldError, match="rank 0 of 1"):
        dist.init_process_group(
            "umem", store=dist.HashStore(), rank=0, world_size=1, pg_options=GroupOptions(ranks=(0, 1))
        )
    assert not current.is_open()
