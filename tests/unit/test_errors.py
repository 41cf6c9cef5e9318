"""Every error of umem is itself after a journey: type, text, attributes, notes, cause."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import cloudpickle
import pytest

from tests.error_samples import kinds, sample, told_by
from umem.errors import OutOfMemory, UmemError

JOURNEYS = {
    **{
        f"pickle {number}": lambda error, number=number: pickle.loads(pickle.dumps(error, number))
        for number in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "cloudpickle": lambda error: pickle.loads(cloudpickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("journey", JOURNEYS)
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_is_itself_after_a_journey(kind, journey):
    error = sample(kind)
    assert told_by(JOURNEYS[journey](error)) == told_by(error)


def test_a_cause_that_cannot_travel_travels_as_its_text():
    class Local(Exception):
        """Of a function: pickle finds no such name."""

    error = UmemError("what")
    error.__cause__ = Local("why")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived.__cause__) is UmemError and "Local: why" in str(arrived.__cause__)


def test_errors_travel_without_asserts_too():
    program = (
        "import pickle\nfrom tests.error_samples import kinds, sample, told_by\nfor kind in kinds():\n"
        "    error = sample(kind)\n    if told_by(pickle.loads(pickle.dumps(error))) != told_by(error): exit(kind)"
    )
    subprocess.run([sys.executable, "-O", "-c", program], check=True, timeout=60)


def test_who_catches_pythons_own_errors_catches_these():
    with pytest.raises(MemoryError):
        raise OutOfMemory("full")
