"""Coherent accesses compile for CUDA, with the hit in the order that the model checker has found to be enough."""

from __future__ import annotations

import importlib.util
import re

import pytest

from umem.kernels.coherent import coherent_fetch_add_i64, coherent_load_i64
from umem.kernels.cuda import cuda_ptx
from umem.kernels.ops import store_i64

pytestmark = [
    pytest.mark.soak,  # 5,000 instructions each
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no PTX"
    ),
]
ACQUIRE, RELEASE = r"ld\.acquire\.sys\.\S*64", r"st\.release\.sys\.\S*64"
SWAP = r"atom\.acq_rel\.sys\S*\.cas\.b64"


def load(cache, address, out):
    """A coherent load on a device."""
    code, value = coherent_load_i64(cache, address)
    store_i64(out, 0, value)
    store_i64(out, 1, code)


def add(cache, address, out):
    """A coherent addition on a device."""
    code, value = coherent_fetch_add_i64(cache, address, 1)
    store_i64(out, 0, value)
    store_i64(out, 1, code)


@pytest.mark.parametrize(
    ("kernel", "hit"),
    [
        (load, [ACQUIRE, ACQUIRE, ACQUIRE]),  # tag, element, tag
        (add, [ACQUIRE, SWAP, r"ld\.global", RELEASE, RELEASE]),  # tag, pin, element, element, tag
    ],
    ids=["load", "add"],
)
def test_a_hit_keeps_its_order(kernel, hit):
    ptx, _ = cuda_ptx(kernel, "void(int64, int64, int64)")
    body = ptx[ptx.index("{") :]
    accesses = "|".join([ACQUIRE, RELEASE, SWAP])
    found = re.search(accesses, body)
    assert found and re.match(ACQUIRE, found[0]), "the tag comes first"
    position = 0
    for pattern in hit:
        found = re.search(pattern, body[position:])
        assert found, pattern
        position += found.end()
    assert "fence.sc.sys" in body, "a claim looks for a sibling's behind it"
