"""Other libraries over arrays of GPU ranks: Numba's own kernels on the driver that executes, DLPack's structs field by
field, NumPy and torch on host memory. CuPy and torch's CUDA side stand in; scripts/gpu-check has the real ones.
"""

from __future__ import annotations

import functools

import interop_work
import pytest
from worlds import GpuWorlds


@functools.cache
def passed(worlds: GpuWorlds, device: str, mode: str) -> list[list[str]]:
    return worlds.launch(interop_work.run_all, 2, device, mode)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [check.__name__ for check in interop_work.CHECKS])
@pytest.mark.parametrize(("device", "mode"), [("cuda:0,cuda:1", "strict"), ("cuda,cpu", "plain")])
def test_interop(gpu_worlds, device, mode, check):
    assert all(check in names for names in passed(gpu_worlds, device, mode))
