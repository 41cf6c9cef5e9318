"""The kernels that umem ships for CUDA, as PTX on the driver that executes, against NumPy.

Evidence about their values, about what they touch (strict) and about their orderings (weak memory); none about a GPU.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
pytestmark = pytest.mark.timeout(500)  # where nothing is cached, PTX and machine code are made first

KERNELS = (
    "copy",
    "copies of groups",
    "copy_2d",
    "gather_rows",
    "signals",
    "barrier",
    *(f"gather_sum_{name}" for name in ("f32", "f16", "bf16")),
    *(f"reduce_{name}" for name in ("f32", "f64", "i32", "i64", "f16", "bf16")),
)


@pytest.fixture(scope="module")
def told(run_steps) -> str:
    """What all kernels print in all modes, run once."""
    return run_steps("run_all", module="kernel_steps", timeout_s=400)


def test_no_shipped_kernel_is_left_out():
    from umem.kernels.data import gather_sum, reduce

    assert {f"gather_sum_{name}" for name in gather_sum.CUDA_GATHER_SUM} < set(KERNELS)
    assert {f"reduce_{name}" for name in reduce.CUDA_REDUCE} < set(KERNELS)


@pytest.mark.parametrize("mode", ["plain", "weak", "strict"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_numpy(told, kernel, mode):
    assert f"{mode} {kernel} ok" in told.splitlines(), told
