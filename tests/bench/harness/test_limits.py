"""The C that stands for the hardware's limits computes what it claims: a wrong limit is a wrong ratio."""

import numpy as np
import pytest

from umem.bench.harness import hardware
from umem.errors import Waived


@pytest.fixture(scope="module")
def lib():
    return hardware.load()


def aligned(num_bytes: int, alignment: int = 64) -> np.ndarray:
    """Zeroed bytes whose first address is a multiple of `alignment`."""
    raw = np.zeros(num_bytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + num_bytes]


def random_bytes(num_bytes: int) -> np.ndarray:
    block = aligned(num_bytes)
    block[:] = np.random.default_rng(num_bytes).integers(0, 256, num_bytes)
    return block


@pytest.mark.parametrize("name", ["copy_libc", "copy_stream"])
@pytest.mark.parametrize("num_bytes", [0, 256, 4096, 1 << 20])
def test_copies_copy_every_byte(lib, name, num_bytes):
    src, dst = random_bytes(num_bytes), aligned(num_bytes)
    getattr(lib, name)(dst.ctypes.data, src.ctypes.data, num_bytes)
    assert np.array_equal(dst, src)


@pytest.mark.parametrize("name", ["add_f32", "add_f32_stream"])
def test_adds_match_numpy(lib, name):
    a, b = np.arange(4096, dtype=np.float32), np.full(4096, 0.5, np.float32)
    dst = aligned(a.nbytes).view(np.float32)
    getattr(lib, name)(dst.ctypes.data, a.ctypes.data, b.ctypes.data, a.nbytes)
    assert np.array_equal(dst, a + b)


def test_sum_words_wraps_as_numpy_does(lib):
    words = np.random.default_rng(1).integers(-(1 << 62), 1 << 62, 1001)
    assert lib.sum_words(words.ctypes.data, words.size) == words.sum()


def test_chase_follows_the_indices(lib):
    successor = np.array([3, 0, 1, 2])
    assert lib.chase(successor.ctypes.data, 0, 1) == 3
    assert lib.chase(successor.ctypes.data, 0, 3) == 1


@pytest.mark.parametrize("row_bytes", [8, 64, 200, 2048])
def test_gather_rows_copies_the_named_rows(lib, row_bytes):
    table = random_bytes(50 * row_bytes).reshape(50, row_bytes)
    indices = np.random.default_rng(2).integers(0, 50, 33)
    dst = np.zeros((33, row_bytes), np.uint8)
    lib.gather_rows(dst.ctypes.data, table.ctypes.data, indices.ctypes.data, 33, row_bytes, 16)
    assert np.array_equal(dst, table[indices])


@pytest.mark.parametrize("num_columns", [16, 32, 48, 64, 128, 256, 512])
def test_gather_sum_adds_the_rows_of_each_bag(lib, num_columns):
    rng = np.random.default_rng(3)
    table = rng.integers(-50, 50, (40, num_columns)).astype(np.float32)
    indices = rng.integers(0, 40, 7 * 5)
    dst = np.zeros((7, num_columns), np.float32)
    lib.gather_sum_f32(dst.ctypes.data, table.ctypes.data, indices.ctypes.data, 7, 5, num_columns * 4, 16)
    assert np.array_equal(dst, table[indices].reshape(7, 5, num_columns).sum(axis=1))


def test_atomics_count(lib):
    word = np.zeros(1, np.int64)
    assert lib.fetch_add(word.ctypes.data, 1000) == 1000
    assert lib.compare_swap(word.ctypes.data, 500) == 1500
    assert word[0] == 1500


def test_ping_pong_gives_up_when_nobody_answers(lib):
    word = np.zeros(1, np.int64)
    assert lib.line_ping_pong(word.ctypes.data, 0, 10, 1000) == 0


def test_round_trips_complete_or_say_why_not():
    for measure in (hardware.line_round_trip_ns, hardware.event_round_trip_ns):
        try:
            assert 1 < measure(50) < 1e9
        except Waived as reason:
            assert "core" in str(reason)


def test_malloc_churn_leaves_its_blocks_live_until_cleared(lib):
    live, sizes = np.zeros(64, np.int64), np.full(16, 100)
    assert lib.malloc_churn(live.ctypes.data, live.size, sizes.ctypes.data, sizes.size, 1000) == 0
    assert np.count_nonzero(live) == len(set(live[live != 0])) > 32
    lib.malloc_clear(live.ctypes.data, live.size)
    assert not live.any()


def test_no_compiler_is_waived_with_the_reason(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    hardware.load.cache_clear()
    with pytest.raises(Waived, match="no C compiler"):
        hardware.load()


def test_a_failing_compiler_is_waived_with_its_words(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho unsupported machine >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: str(broken))
    monkeypatch.setenv("UMEM_CACHE", str(tmp_path))
    hardware.load.cache_clear()
    with pytest.raises(Waived, match="unsupported machine"):
        hardware.load()


def test_unknown_limit_is_an_attribute_error(lib):
    with pytest.raises(AttributeError, match="copy_magic"):
        lib.copy_magic(0)
