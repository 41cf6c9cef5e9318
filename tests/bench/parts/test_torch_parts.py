"""What the cases under torch rely on: a trace, a replay that sees a broken allocator, equal weights, waived sides."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from umem.bench.cases import registry, torch_allocator
from umem.bench.cases import torch as cases
from umem.bench.harness.driver import Bench
from umem.bench.harness.side import Options
from umem.bench.parts.replay_loops import ALLOCATE, DATA_WORDS, RAW_DELETER, checked_replay, replay
from umem.errors import UnknownName, Waived
from umem.kernels import c_callback
from umem.kernels.intrinsics.scalar import fetch_add_i64, load_i64, store_i64

TRACE = np.array([(0, 4), (1, 100), (0, 0), (2, 4096), (2, 0), (1, 0)], np.int64)
NUM_SLOTS = 3
WHOLE = (1, 1 << 62)


# --- a c10::Allocator made up for a test: its words are {table of functions, next address, step, deleter}


@c_callback("int64(int64, int64, int64)")
def allocate(result, this, num_bytes):
    store_i64(result, 0, fetch_add_i64(this, 1, load_i64(this, 2)))
    return result


@c_callback("int64(int64, int64, int64)")
def raw_deleter(this, unused, unused_too):
    return load_i64(this, 3)


@c_callback("void(int64)")
def delete(address):
    store_i64(address, 0, -1)


class Fake:
    """Hands out `memory` in steps of `step` bytes: of 0, every block is the same one."""

    def __init__(self, step):
        whole = np.zeros(4096, np.int64)
        self.memory = whole[(-whole.ctypes.data % 64) // 8 :]
        table = np.zeros(8, np.int64)
        for callback in (allocate, raw_deleter, delete):
            callback.load()
        table[ALLOCATE], table[RAW_DELETER] = allocate.address, raw_deleter.address
        self.table = table
        self.words = np.array([table.ctypes.data, self.memory.ctypes.data, step, delete.address])
        self.address = self.words.ctypes.data

    def errors(self, low=WHOLE[0], high=WHOLE[1]):
        live, sizes, data = np.zeros(NUM_SLOTS, np.int64), np.zeros(NUM_SLOTS, np.int64), np.zeros(DATA_WORDS)
        words = live.ctypes.data, sizes.ctypes.data, data.ctypes.data
        return checked_replay(self.address, TRACE.ctypes.data, len(TRACE), *words, low, high)


def test_a_replay_allocates_and_frees_what_the_trace_says():
    fake = Fake(8192)
    live, data = np.zeros(NUM_SLOTS, np.int64), np.zeros(DATA_WORDS, np.int64)
    replay(fake.address, TRACE.ctypes.data, len(TRACE), live.ctypes.data, data.ctypes.data, 1)
    first = fake.memory.ctypes.data
    assert list(live) == [first, first + 8192, first + 2 * 8192]
    assert [int(fake.memory[1024 * block]) for block in range(3)] == [-1, -1, -1], "all were deleted"


def test_a_sound_allocator_has_no_errors():
    assert Fake(8192).errors() == 0


def test_blocks_that_overlap_are_errors():
    assert Fake(0).errors() > 0
    assert Fake(64).errors() > 0, "the second block is 100 bytes long"


def test_blocks_outside_and_misaligned_ones_are_errors():
    fake = Fake(8192)
    assert fake.errors(high=fake.memory.ctypes.data + 2 * 8192) == 1
    assert Fake(8192 + 8).errors() == 2


def test_the_driver_needs_no_torch_and_says_what_is_missing(monkeypatch):
    code = "import sys; from umem.bench.cases import registry; registry.all_cases(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"
    monkeypatch.setattr(cases, "find_spec", lambda name: None)
    for case in registry.select(["torch"]):
        assert "scripts/setup torch" in case().waived(Options())


def test_a_malloc_that_is_not_installed_waives_its_side(monkeypatch):
    monkeypatch.setattr(torch_allocator, "find_library", lambda name: None)
    with Bench(Options()) as bench:
        case = registry.find("torch.raw")()
        side = next(side for side in case.sides(bench, case.points(Options())[0]) if side.name == "jemalloc")
        with pytest.raises(Waived, match="jemalloc is not installed"):
            side.open()


class TestWithTorch:
    """What runs where torch is."""

    @pytest.fixture(autouse=True)
    def needs_torch(self):
        pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

    def test_frees_end_the_youngest_block_of_their_size(self):
        from umem.bench.parts.torch.trace import paired

        found = paired([8, 8, -8, 16, -32, -8, 24])
        assert found.tolist() == [[0, 8], [1, 8], [1, 0], [0, 0]], "neither older blocks nor those that stay"

    def test_a_malloc_that_was_not_loaded_is_noticed(self):
        from umem.bench.parts.torch.allocator import RawAlone

        with pytest.raises(Waived, match="no-such-malloc was not loaded"):
            RawAlone(None, "mlp", 1, "no-such-malloc")

    def test_weights_that_differ_in_a_bit_are_noticed(self):
        import torch

        from umem.bench.parts.torch.trainer import Trainer
        from umem.bench.parts.torch.training import Weights

        one, other, weights = Trainer("mlp", 1), Trainer("mlp", 1), Weights()
        for trainer in (one, other):
            trainer.resume()
            trainer.step()
        assert weights.are_equal(one) and weights.are_equal(other)
        with torch.no_grad():
            next(other.model.parameters())[0, 0] += 1e-6
        assert not weights.are_equal(other)
        one.step()
        assert weights.are_equal(one), "what came first at a number of steps is the measure"

    def test_dropout_does_not_depend_on_who_trained_before(self):
        import torch

        from umem.bench.parts.torch.trainer import Trainer

        digests = []
        for num_disturbances in (0, 3):
            trainer = Trainer("transformer", 1)
            for _ in range(2):
                torch.rand(num_disturbances)
                trainer.resume()
                trainer.step()
                trainer.pause()
            digests.append(trainer.digest())
        assert digests[0] == digests[1]

    def test_an_unknown_model_is_named(self):
        from umem.bench.parts.torch.trainer import Trainer

        with pytest.raises(UnknownName, match="mlp, transformer"):
            Trainer("cnn", 1)

    def test_what_goes_out_comes_back_and_a_file_does_not_grow(self):
        import torch

        from umem.bench.parts.torch.swap import File, into_buffer

        file = File()
        for put_out in (into_buffer, file):
            tensor = torch.randn(3, 500).t()
            take_back = put_out(tensor)
            expected = tensor.clone()
            tensor.zero_()
            assert torch.equal(take_back(), expected)
        del take_back
        first, second = file(torch.zeros(500, 3)), file(torch.ones(500, 3))
        assert float(first().sum()) == 0.0 and float(second().sum()) == 1500.0
        assert file.num_bytes() == 2 * 500 * 3 * 4, "the place of what was dropped is used again"
        file.close()
