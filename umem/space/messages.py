"""Python objects from rank to rank: pickled, each as one message.

The pickler can be replaced: that of `umem.torch.install` writes tensors of its pool as addresses.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import rank_of
from ..errors import FabricMissing
from ..fabric.ucx.library import INSTALL_UCX
from ..fabric.ucx.tags import checked

if TYPE_CHECKING:
    from ..fabric.ucx.fabric import UcxFabric

MakePickler = Callable[[io.BytesIO, int], pickle.Pickler]


class Messages:
    """Sends and receives objects for one rank. `make_pickler(file, rank)` makes the pickler of a message to `rank`."""

    def __init__(self, fabric: UcxFabric | None):
        self._fabric = fabric
        self.make_pickler: MakePickler = lambda file, rank: pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)

    def send(self, message: Any, rank: int, tag: int, make_pickler: MakePickler | None = None) -> None:
        """See Space.send."""
        fabric = self._transport()
        rank, tag = rank_of(rank, fabric.num_ranks), checked(tag)
        buffer = io.BytesIO()
        (make_pickler or self.make_pickler)(buffer, rank).dump(message)
        fabric.parcels.send(rank, np.frombuffer(buffer.getbuffer(), np.uint8), tag, fabric.timeout_s)

    def recv(self, rank: int, tag: int) -> Any:
        """See Space.recv."""
        fabric = self._transport()
        rank, tag = rank_of(rank, fabric.num_ranks), checked(tag)
        return pickle.loads(fabric.parcels.recv(rank, tag, fabric.timeout_s).data)

    def _transport(self) -> UcxFabric:
        if self._fabric is None:
            raise FabricMissing(
                f"send and recv need UCX, which is not installed; or use a queue. Fix: {INSTALL_UCX}"
            )
        return self._fabric
