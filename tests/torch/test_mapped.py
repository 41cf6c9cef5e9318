"""What umem.torch promises where all memory is mapped: a launch a subject, a test a promise."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

from . import (
    checks_allocator,
    checks_behaviour,
    checks_kinds,
    checks_placement,
    checks_sharing,
    checks_training,
    steps,
)

SUBJECTS = {
    "allocator": checks_allocator.MAPPED,
    "placement": checks_placement.MAPPED,
    "sharing": checks_sharing.MAPPED | checks_kinds.MAPPED,
    "training": checks_training.MAPPED,
    "behaviour": checks_behaviour.MAPPED,
}


@functools.cache
def outcomes(subject: str) -> list[dict[str, str]]:
    """What both ranks of one launch report."""
    return steps.launch(SUBJECTS[subject], ranks=2, world="mapped")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("subject", "check"), [(name, check) for name in SUBJECTS for check in SUBJECTS[name]]
)
def test_mapped(subject, check):
    steps.judge(outcomes(subject), check)
