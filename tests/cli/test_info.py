"""`umem info`: what it promises to tell is there, in every world, and what is missing comes with its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from umem.fabric.ucx.library import INSTALL_UCX

PROMISED = {
    "devices": {"processor", "cores", "memory"},
    "segments of 2 ranks by default": {"device segment", "host segment", "pages"},
    "fabrics": {"load/store", "ucx", "rdma ports", "network namespaces"},
    "limits": {"/dev/shm", "vm.max_map_count", "ulimit: open files", "userfaultfd", "huge pages of segments"},
    "versions": {"umem", "python", "linux", "numpy", "numba", "c compiler", "torch"},
}
MAP = {"metadata", "linear window", "striped window", "device segment", "host segment"}
WAYS = {"mapped": "load_store", "no-peer-access": "remote", "hosts": "remote"}


def info(*arguments, **environment):
    command = [sys.executable, "-m", "umem", "info", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path):
    """{title: {name: (value, fix)}} of the JSON."""
    return {
        group["title"]: {fact["name"]: (fact["value"], fact["fix"]) for fact in group["facts"]}
        for group in json.loads(path.read_text())
    }


@pytest.mark.parametrize("world", WAYS)
def test_what_is_promised_is_told(tmp_path, world, why_no_hosts):
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    path = tmp_path / "info.json"
    shown = info("--world", world, "--json", path)
    groups = read(path)
    for title, names in PROMISED.items():
        assert groups[title].keys() >= names
        assert f"# {title}\n" in shown
    title = next(title for title in groups if title.startswith(f"world {world} of 2 ranks"))
    assert groups[title].keys() >= MAP
    for rank in range(2):
        ways = [f"{home}: {'load_store' if home == rank else WAYS[world]}" for home in range(2)]
        assert groups[title][f"rank {rank} reaches homes"][0] == ", ".join(ways)
        by_cpu = groups["reach of device, host, meta memory"][f"rank {rank} by cpu"][0]
        if world == "mapped":
            assert by_cpu == "homes 0 1: load/store"
        else:
            assert f"home {rank}: load/store" in by_cpu and f"home {1 - rank}: agent" in by_cpu
    assert groups["gpus"], "why there are none, at least"


def test_without_ucx_the_line_that_installs_it_is_told_and_the_mapped_world_works(tmp_path):
    path = tmp_path / "info.json"
    shown = info("--json", path, UMEM_UCX=tmp_path)
    assert shown.rpartition("# missing")[2].strip() == f"ucx: {INSTALL_UCX}"
    groups = read(path)
    assert groups["fabrics"]["ucx"] == ("none", INSTALL_UCX)
    assert any("1: load_store" in row.get("rank 0 reaches homes", ("",))[0] for row in groups.values())


def test_a_world_that_cannot_be_made_is_among_what_is_missing(tmp_path):
    shown = info("--world", "no-peer-access", UMEM_UCX=tmp_path)
    missing = shown.rpartition("# missing")[2]
    assert f"ucx: {INSTALL_UCX}" in missing and "not available" in missing
