"""After the preparation nothing is left to compile for any case."""

from __future__ import annotations

import subprocess
import sys

import pytest

from umem.bench import prepare

LEFT = """
import importlib, sys
from umem.bench.parts.ranks import part_modules
from umem.kernels.build import code_cache
from umem.kernels.build.compile import registered
from umem.space.ahead import kernel_groups
for name in part_modules():
    importlib.import_module(name)
groups = kernel_groups(sys.argv[1] == "mapped")
left = [lazy for lazy in registered(groups=groups) if not code_cache.is_ready(lazy.folder)]
sys.exit(str(left) if left else 0)
"""


@pytest.mark.parametrize("world", ["mapped", "no-peer-access"])
def test_nothing_is_left_to_compile(world):
    prepare.prepare(world)
    command = [sys.executable, "-c", LEFT, world]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_what_does_not_compile_in_time_is_left_to_the_ranks(monkeypatch):
    monkeypatch.setattr(prepare, "_TIMEOUT_S", 0.01)
    prepare.prepare("mapped")
