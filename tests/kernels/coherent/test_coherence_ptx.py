"""Coherent access compiles for CUDA from the source that the CPU runs and the checker searches; never run on a GPU."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.kernels.intrinsics.test_ptx import NO_ASSEMBLER
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.coherent.span import coherent_read, coherent_write
from umem.kernels.coherent.typed import coherent_compare_swap_i32, coherent_fetch_add_i64, coherent_load_i64
from umem.kernels.intrinsics.scalar import store_i64

pytestmark = [
    pytest.mark.soak,  # a kernel takes seconds: all ways of a transaction are in it
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no PTX"
    ),
]


def load(cache, address, out):
    code, value = coherent_load_i64(cache, address)
    store_i64(out, 0, code)
    store_i64(out, 1, value)


def fetch_add(cache, address, out):
    code, value = coherent_fetch_add_i64(cache, address, 1)
    store_i64(out, 0, code)
    store_i64(out, 1, value)


def compare_swap(cache, address, out):
    code, value = coherent_compare_swap_i32(cache, address, 1, 2)
    store_i64(out, 0, code)
    store_i64(out, 1, value)


def copy_both_ways(cache, address, out):
    coherent_read(cache, out, address, 4096)
    coherent_write(cache, address, out, 4096)


@pytest.mark.parametrize("kernel", [compare_swap, copy_both_ways], ids=lambda kernel: kernel.__name__)
def test_every_order_is_of_system_scope(kernel):
    text, _ = cuda_ptx(kernel, "void(int64, int64, int64)", cc=(8, 0))
    ordered = re.findall(r"\b(?:ld|st)\.(?:acquire|release|relaxed)\.(\w+)", text)
    swaps = re.findall(r"\batom\.acq_rel\.(\w+)", text)
    assert len(ordered) > 20 and len(swaps) > 3
    assert set(ordered + swaps) == {"sys"}
    assert "nanosleep" in text, "who waits lets others go on"


@pytest.mark.skipif(bool(NO_ASSEMBLER), reason=NO_ASSEMBLER or "assembled")
@pytest.mark.parametrize("cc", [(8, 0), (10, 0)], ids=str)
def test_it_assembles(cc):
    text, entry = cuda_ptx(fetch_add, "void(int64, int64, int64)", cc=cc)
    assert entry.encode() in cuda_cubin(text, cc)


ACQUIRE, RELEASE = r"ld\.acquire\.sys\.\S*64", r"st\.release\.sys\.\S*64"
SWAP = r"atom\.acq_rel\.sys\S*\.cas\.b64"


@pytest.mark.parametrize(
    ("kernel", "hit"),
    [
        (load, [ACQUIRE, ACQUIRE, ACQUIRE]),  # tag, element, tag
        (fetch_add, [ACQUIRE, SWAP, r"ld\.global", RELEASE, RELEASE]),  # tag, pin, element, element, tag
    ],
    ids=["load", "fetch_add"],
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
