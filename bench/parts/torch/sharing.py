"""A tensor through a multiprocessing queue: by its address, and the ways that torch has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import Lock
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np
import torch

from umem.errors import WaitTimeout
from umem.space.space import Space
from umem.torch import home

from ...harness.stats import Samples
from ..base import BLOCK_TIMEOUT_S
from .base import TorchPart

Make = Callable[[], torch.Tensor]
Check = Callable[[torch.Tensor, int], None]  # of the tensor sent, and the receiver's pointer to it


class CountedConnection(Connection):
    """A connection that counts the bytes of messages it reads."""

    num_bytes = 0

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        data = super().recv_bytes(maxlength)
        self.num_bytes += len(data)
        return data


def queue_over(connection: Connection) -> Any:
    """multiprocessing's queue between processes that exist already: it only lets itself be made before a fork."""
    queue: Any = object.__new__(SimpleQueue)
    queue.__setstate__((connection, connection, Lock(), Lock()))
    return queue


class Sharing(TorchPart):
    """Rank 0 sends tensors to rank 1, which answers with the address where it has found each.

    Both read and write it, so that a copy would be noticed. Samples are from before the sending until the
    answer is there: times, or with `in_bytes` what the queue carried to rank 1.
    """

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.shape = (num_bytes // 4,)
        self.connection = self._connect()
        self.queue = queue_over(self.connection)

    def umem(self, num_samples: int, in_bytes: bool = False) -> Samples | None:
        """A tensor of the pool."""
        return self._run(num_samples, self._in_pool, in_bytes, self._expect_same_pointer)

    def file_descriptor(self, num_samples: int, in_bytes: bool = False) -> Samples | None:
        """A new tensor, which torch copies to shared memory to send its descriptor."""
        return self._run(num_samples, self._private, in_bytes)

    def share_memory(self, num_samples: int, in_bytes: bool = False) -> Samples | None:
        """A tensor that has been in torch's shared memory before."""
        return self._run(num_samples, lambda: self._private().share_memory_(), in_bytes)

    def _private(self) -> torch.Tensor:
        return torch.zeros(self.shape)

    def _in_pool(self) -> torch.Tensor:
        with self.at_neighbour():
            return torch.zeros(self.shape)

    def _expect_same_pointer(self, tensor: torch.Tensor, pointer: int) -> None:
        self.expect(home(tensor) == self.home and pointer == tensor.data_ptr())

    def _run(
        self, num_samples: int, make: Make, in_bytes: bool, check: Check = lambda tensor, pointer: None
    ) -> Samples | None:
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            samples[sample] = self._send(make(), sample, check) if self.rank == 0 else self._receive()
        return samples if self.rank == int(in_bytes) else None

    def _send(self, tensor: torch.Tensor, number: int, check: Check) -> float:
        """Seconds until rank 1 has answered with the address where it has the tensor."""
        tensor[-1] = number
        begin = time.perf_counter_ns()
        self.queue.put(tensor)
        pointer, value = self._get()
        elapsed_s = (time.perf_counter_ns() - begin) * 1e-9
        self.expect(value == number and float(tensor[0]) == number + 1)
        check(tensor, pointer)
        return elapsed_s

    def _receive(self) -> float:
        """Bytes that came for one tensor."""
        before = self.connection.num_bytes
        tensor = self._get()
        num_bytes = self.connection.num_bytes - before
        value = float(tensor[-1])
        tensor[0] = value + 1
        self.queue.put((tensor.data_ptr(), value))
        return num_bytes

    def _get(self) -> Any:
        if not self.connection.poll(BLOCK_TIMEOUT_S):
            raise WaitTimeout(f"nothing came through the queue for {BLOCK_TIMEOUT_S:.0f} s")
        return self.queue.get()

    def _connect(self) -> CountedConnection:
        """To the other rank. Collective."""
        if self.rank != 0:
            address = self.space.world.exchange("bench/queue", b"")[0].decode()
            return counted(Client(address))
        with Listener() as listener:
            self.space.world.exchange("bench/queue", str(listener.address).encode())
            return counted(listener.accept())

    def close(self) -> None:
        self.connection.close()
        super().close()


def counted(connection: Connection) -> CountedConnection:
    """The same connection, counting."""
    with connection:
        return CountedConnection(os.dup(connection.fileno()))
