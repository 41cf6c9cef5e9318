"""torch.compile: what generated code allocates is the pool's too."""

from __future__ import annotations

import shutil

import pytest

import umem

TOLERANCE = 1e-4


def compare(space):
    """(home of a compiled function's result outside of the pool, inside of it) in rank 0."""
    import torch

    from umem.torch import home, install, use_pool

    install(space)
    homes = None
    if space.rank == 0:  # ranks would compile the same code at the same time, in one cache
        x, w = torch.randn(64, 64), torch.randn(64, 64)

        def layer(x, w):
            return (x @ w).relu().sum(1) * 2

        compiled = torch.compile(layer)
        outside = compiled(x, w)
        with use_pool(home=1):
            inside = compiled(x, w)
        assert torch.allclose(inside, layer(x, w), atol=TOLERANCE) and torch.equal(inside, outside)
        homes = home(outside), home(inside)
        del inside
    space.barrier()
    return homes


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_what_compiled_code_allocates_lives_at_the_home(tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler for the CPU, and there is none")
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    assert umem.launch(compare, 2, segment="64M", environment=environment, timeout_s=500) == (None, 1)
