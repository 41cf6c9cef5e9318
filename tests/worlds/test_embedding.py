"""Embedding tables, by loads and stores and by requests to the homes, at several numbers of ranks."""

from __future__ import annotations

import pytest

import umem
from tests.worlds import checks_embedding as checks

WORLDS = pytest.mark.parametrize("world", ["mapped", "no-peer-access"])


@WORLDS
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_lookups(ranks, world):
    args = ("float32", "float16", "bfloat16") if ranks == 2 else ("float32",), ("rows", "columns", ranks - 1)
    umem.launch(checks.check_lookups, ranks, world=world, segment="64M", args=args)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_training_has_the_bits_of_any_number_of_ranks(optimizer):
    ways = [(1, "mapped", "rows"), (2, "mapped", "rows"), (4, "mapped", "columns"), (2, "no-peer-access", 1)]
    for dtype in ("float32", "bfloat16") if optimizer == "adagrad" else ("float32",):
        digests = {
            umem.launch(
                checks.check_training, ranks, world=world, segment="64M", args=(optimizer, dtype, placement)
            )
            for ranks, world, placement in ways
            if optimizer == "sgd" or placement != "columns"  # a row-wise state is a shard's
        }
        assert len(digests) == 1, digests


def test_what_is_refused():
    umem.launch(checks.check_refusals, 2, segment="16M")


@WORLDS
def test_quantised_rows(world, tmp_path):
    umem.launch(checks.check_quantised, 2, world=world, segment="16M", args=(str(tmp_path),))
