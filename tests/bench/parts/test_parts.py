"""Parts see wrong data: what is measured must not be faster for having been lost."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from umem.bench.parts import atomics, coherence_least
from umem.bench.parts.agent import Home
from umem.kernels import status

HOME_BYTES = 8192


class FakeSpace:
    """Memory at a home; a `faulty` one loses puts of a word and answers gets of a word with nothing."""

    def __init__(self, faulty=False):
        self.memory, self.faulty = np.zeros(HOME_BYTES, np.uint8), faulty

    def put(self, address, src):
        if not (self.faulty and src.nbytes == 8):
            self.memory[address : address + src.nbytes] = src.view(np.uint8)

    def get(self, dst, address):
        if not (self.faulty and dst.nbytes == 8):
            dst.view(np.uint8)[:] = self.memory[address : address + dst.nbytes]


@pytest.mark.parametrize("operation", ["get", "put"])
@pytest.mark.parametrize("faulty", [False, True])
def test_lost_words_at_a_busy_home_are_errors(operation, faulty):
    home = object.__new__(Home)
    home.space, home.words, home._errors = FakeSpace(faulty), 0, 0
    home.random = np.random.default_rng(1)
    for _ in range(2):
        assert len(getattr(home, operation)(5)) == 5
        assert home.num_errors() == int(faulty)


class FakeWord:
    """What UCX does to a word at the home, in place of the compiled loop; loses the operation number `lost`."""

    def __init__(self, lost=None):
        self.value, self.lost, self.num_asked = 0, lost, 0

    def atomic(self, port, endpoint, rank, operation, first, operand, operand_step, *rest):
        _, _, num_operations, _, replies, _ = rest
        replies = (ctypes.c_int64 * num_operations).from_address(replies)
        for i in range(num_operations):
            replies[i] = self.value
            if self.num_asked != self.lost:
                self.value = self.after(operation, operand + i * operand_step, first + i + 1)
            self.num_asked += 1
        return status.OK

    def after(self, operation, operand, desired):
        if operation == atomics.abi.ATOMIC_ADD:
            return self.value + operand
        if operation == atomics.abi.ATOMIC_SWAP:
            return operand
        return desired if operand == self.value else self.value


@pytest.mark.parametrize("operation", atomics.UCX_OPERATIONS)
@pytest.mark.parametrize("lost", [None, 3, 7])
def test_a_lost_atomic_is_an_error(monkeypatch, operation, lost):
    part, word = object.__new__(atomics.RemoteWord), FakeWord(lost)
    monkeypatch.setattr(atomics.loops, "atomic", word.atomic)
    reach = SimpleNamespace(endpoint=SimpleNamespace(handle=0), key=lambda address, num_bytes: 0)
    part.operation, part.word, part.rank, part.num_done, part._errors = operation, 0, 0, 0, 0
    part.space = SimpleNamespace(
        segments=SimpleNamespace(remote_address=lambda address: address), load=lambda *_: word.value
    )
    part.fabric = SimpleNamespace(peers={atomics.HOME_SIDE: SimpleNamespace(words=reach)})
    part.port = SimpleNamespace(address=0)
    part.rounds = lambda num_samples, num_warm, loop: np.full(num_samples, float(loop(num_samples, 0)))
    for _ in range(2):
        part.rma(4)
    assert (part.num_errors() > 0) == (lost is not None)


BARE = {
    "load": "load_each",
    "store": "store_each",
    "fetch_add": "add_each",
    "read": "read_each",
    "write": "write_each",
}


@pytest.mark.parametrize("verb", BARE)
def test_bare_steps_on_wrong_data_are_errors(monkeypatch, verb):
    least = coherence_least.Least(SimpleNamespace(rank=0), num_lines=64, num_accesses=256)
    for _ in range(2):
        assert len(getattr(least, verb)(3)) == 3
        assert least.num_errors() == 0
    steps = getattr(coherence_least, BARE[verb])

    def steps_beside_a_fault(*arguments):
        done = steps(*arguments)
        least.home[0] += 1
        least.copies[0] += 1
        return done

    monkeypatch.setattr(coherence_least, BARE[verb], steps_beside_a_fault)
    getattr(least, verb)(3)
    assert least.num_errors() > 0
