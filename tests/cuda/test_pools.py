"""torch's and CuPy's allocators over the memory of GPU ranks: own, a neighbour's, the host's. With stand-ins for both
libraries, which run on no driver but a real one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")

import pool_work


@pytest.mark.timeout(500)  # where nothing is cached, kernels are compiled first
@pytest.mark.parametrize(("device", "mode"), [("cuda:0,cuda:1", "strict"), ("cuda,cpu", "plain")])
def test_pools_of_homes(gpu_worlds, device, mode):
    names = [check.__name__ for check in pool_work.CHECKS]
    assert gpu_worlds.launch(pool_work.run_all, 2, device, mode) == [names, names]
