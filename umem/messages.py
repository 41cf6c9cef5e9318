"""Python objects from rank to rank: pickled, as two messages, the length and the bytes.

How things are pickled can be extended: `umem.torch.install` has tensors of its pool travel as addresses.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import FabricMissing
from .fabric.ucx.library import FIX

if TYPE_CHECKING:
    from .fabric.ucx.fabric import UcxFabric

LENGTH_BYTES = 8  # of the number that goes ahead of a message
MakePickler = Callable[[io.BytesIO, int], pickle.Pickler]


class Messages:
    """Sends and receives objects for one rank. `make_pickler(file, rank)` writes what is sent to `rank`."""

    def __init__(self, fabric: UcxFabric | None):
        self._fabric = fabric
        self.make_pickler: MakePickler = lambda file, rank: pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)

    def send(self, message: Any, rank: int, tag: int, make_pickler: MakePickler | None = None) -> None:
        """See Space.send."""
        fabric = self._transport()
        buffer = io.BytesIO()
        (make_pickler or self.make_pickler)(buffer, rank).dump(message)
        data = np.frombuffer(buffer.getbuffer(), np.uint8)
        length = np.array([data.nbytes])
        for part in (length, data):
            fabric.send(rank, part.ctypes.data, part.nbytes, tag, keep=part)

    def recv(self, rank: int, tag: int) -> Any:
        """See Space.recv."""
        fabric = self._transport()
        length = np.empty(1, np.int64)
        fabric.recv(rank, length.ctypes.data, LENGTH_BYTES, tag, keep=length)
        data = np.empty(int(length[0]), np.uint8)
        fabric.recv(rank, data.ctypes.data, data.nbytes, tag, keep=data)
        return pickle.loads(data.data)

    def _transport(self) -> UcxFabric:
        if self._fabric is None:
            raise FabricMissing(f"send and recv need UCX, which is not installed; or use a queue. Fix: {FIX}")
        return self._fabric
