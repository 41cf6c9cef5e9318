"""scripts/train_digits.py, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: scripts/setup dev")

import train_digits

SCRIPT = Path(train_digits.__file__)
KEPT = ("weights", "gradients", "activations", "optimizer state", "data")


@pytest.mark.soak
def test_digits_train_at_the_neighbour_as_they_do_at_home():
    command = [sys.executable, str(SCRIPT), "--epochs", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    plain, pooled = done.stdout.split("in the pool:")
    accuracies = [float(found) for found in re.findall(r"accuracy ([\d.]+) after 2 epochs", done.stdout)]
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1] > 0.8
    for text, home in ((plain, "torch's own memory"), (pooled, "rank 1")):
        homes = dict(re.findall(r"^  (\S.*?\S) +[\d.]+\w? at (.*)$", text, re.MULTILINE))
        assert homes == dict.fromkeys(KEPT, home)
    assert "weights: bit-equal" in done.stdout


def test_weights_that_differ_are_an_error(monkeypatch, capsys):
    plain = train_digits.Trained(0.9, (b"\0",), {})
    pooled = train_digits.Trained(0.9, (b"\1",), {})
    monkeypatch.setattr(train_digits.umem, "launch", lambda *args, **options: (plain, pooled))
    monkeypatch.setattr(sys, "argv", ["train_digits.py"])
    assert train_digits.main() == 1
    assert "weights: DIFFERENT" in capsys.readouterr().out
