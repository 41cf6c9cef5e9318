"""PyTorch's own tests of torch.distributed, against the backend "umem": run by test_suite_of_torch.py.

They choose what to run by the backend's name. Under MPI's all that needs no GPU runs; what is left to choose while a
test runs goes by umem's.
"""

from __future__ import annotations

import os

import torch
from torch.testing._internal.distributed import distributed_test
from torch.testing._internal.distributed.distributed_test import DistributedTest, TestDistBackend

import umem.torch

assert umem.torch  # imported because it makes torch.distributed know the backend
assert os.environ["BACKEND"] == "mpi", "the suite reads it when it is imported"
distributed_test.BACKEND = "umem"
torch.set_num_threads(1)


class TestUmem(TestDistBackend, DistributedTest._DistTestBase):
    """All of it."""

    def setUp(self):
        super().setUp()
        self._spawn_processes()
