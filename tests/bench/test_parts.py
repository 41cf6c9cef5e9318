"""Parts see wrong data: what is measured must not be faster for having been lost."""

from __future__ import annotations

import numpy as np
import pytest

from umem.bench.parts.agent import Home

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
