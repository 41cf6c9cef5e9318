"""`umem info` with GPUs, on the executing driver: what it says of them, of a world of them, and of what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def info(fake_driver, driver_cache, tmp_path):
    """Run the command with the driver's options; {title: {name: (value, fix)}}."""
    from driver.build import environment

    def run(*arguments: str, **options: int) -> dict[str, dict[str, tuple[str, str]]]:
        path = tmp_path / "info.json"
        variables = os.environ | environment(fake_driver, driver_cache, **options)
        command = [sys.executable, "-m", "umem", "info", "--json", str(path), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=variables
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(path.read_text())
        return {
            group["title"]: {fact["name"]: (fact["value"], fact["fix"]) for fact in group["facts"]}
            for group in found
        }

    return run


@pytest.mark.timeout(200)
def test_gpus_and_their_reach_are_told(info):
    told = info("--device", "cuda,cpu")
    gpus = told["gpus"]
    assert "2 GPUs" in gpus["driver"][0]
    assert "compute capability 9.0" in gpus["cuda:0"][0]
    assert gpus["cuda:1 kernels"] == ("machine code of sm_90, without a compiler", "")
    assert gpus["cuda:0 reaches"][0] == "cuda:1 by load/store, atomics too"
    reach = told["reach of device, host, meta memory"]
    assert reach.keys() == {"rank 0 by cpu", "rank 0 by cuda:0", "rank 1 by cpu"}
    assert "home 0: device agent, host load/store" in reach["rank 1 by cpu"][0]
    assert "load/store" in reach["rank 0 by cuda:0"][0]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("options", "name", "value", "fix"),
    [
        ({"shares": 0}, "cuda:0", "cannot be", "virtual memory management"),
        ({"capability": 70}, "cuda:0 kernels", "none", "compute capability 8.0 and newer"),
        ({"capability": 120}, "cuda:0 kernels", "PTX", ""),
        ({"peers": 0}, "cuda:0 reaches", "cuda:1 not: by its rank's agent", ""),
        ({"native_atomics": 0}, "cuda:0 reaches", "atomics not", ""),
        ({"init": 100}, "none used", "cuInit returned CUDA_ERROR_NO_DEVICE", ""),
    ],
    ids=lambda given: str(given)[:20],
)
def test_what_a_gpu_lacks_is_told(info, options, name, value, fix):
    found = info(**options)["gpus"][name]
    assert value in found[0] and fix in found[1], found
    assert bool(found[1]) == bool(fix)
