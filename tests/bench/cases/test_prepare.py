"""After the preparation nothing is left to compile for any case."""

from __future__ import annotations

import subprocess
import sys

import pytest

from umem.bench import prepare
from umem.kernels.build import precompile
from umem.space.ahead import kernel_groups

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


@pytest.mark.parametrize("world", ["mapped", "no-peer-access", "hosts"])
def test_what_ranks_of_this_world_load_is_prepared(monkeypatch, world):
    asked = []
    monkeypatch.setattr(precompile, "precompile", lambda groups, min_missing: asked.append(groups))
    monkeypatch.setattr(sys, "argv", ["prepare", world])
    prepare.main()
    assert asked == [kernel_groups(is_mapped=world == "mapped")]
    assert kernel_groups(True) != kernel_groups(False)


def test_what_does_not_compile_in_time_is_left_to_the_ranks(monkeypatch):
    monkeypatch.setattr(prepare, "_TIMEOUT_S", 0.01)
    prepare.prepare("mapped")
