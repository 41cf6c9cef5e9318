"""umem.torch.Embedding, EmbeddingBag and SparseOptimizer; a launch a number of ranks."""

from __future__ import annotations

import functools
import tempfile

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

from . import checks_embedding, steps


@functools.cache
def outcomes(ranks: int, world: str) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as path:
        checks = {
            name: functools.partial(checks_embedding.run, name=name, path=path)
            for name in checks_embedding.CHECKS
        }
        return steps.launch(checks, ranks=ranks, world=world, segment="32M")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ranks", "world"), [(1, "mapped"), (2, "mapped"), (3, "mapped"), (2, "no-peer-access")]
)
@pytest.mark.parametrize("check", checks_embedding.CHECKS)
def test_modules(ranks, world, check):
    steps.judge(outcomes(ranks, world), check)
