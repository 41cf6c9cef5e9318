"""A rank's endpoints to another rank, made on first use, and the keys of the other's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import AddressError, FabricError, RankLost
from ...kernels.build.compile import c_callback
from ...kernels.intrinsics.scalar import store_i64
from .channels import Channels, address_for
from .context import Endpoint
from .waiting import UCX_KERNELS


@c_callback("void(int64, int64, int8)", group=UCX_KERNELS)
def note_failure(word, endpoint, status):
    """UCX's error handler of a watched endpoint: keep the status where waits look."""
    store_i64(word, 0, status)


class Reach:
    """A peer's registered memory through one endpoint."""

    def __init__(self, endpoint: Endpoint, regions: list[tuple[int, int, bytes]]):
        self.endpoint = endpoint
        self._regions = [
            (address, address + num_bytes, endpoint.unpack(remote_key))
            for address, num_bytes, remote_key in regions
        ]

    def key(self, address: int, num_bytes: int) -> int:
        """Handle of the region that holds the range. Raises AddressError where none does."""
        for start, end, key in self._regions:
            if start <= address and address + num_bytes <= end:
                return key
        raise AddressError(
            f"{num_bytes} bytes at {address:#x} are not in the registered memory of {self.endpoint.peer}"
        )


class Peer:
    """Ways from the threads of this rank that have `channels` to one rank.

    UCX can watch a peer over tcp, but refuses atomics on a watched endpoint (status -16): so words have
    an endpoint of their own there.
    """

    def __init__(
        self,
        channels: Channels,
        own_rank: int,
        rank: int,
        card: dict[str, Any],
        is_watched: bool,
        confirmed: Callable[[], RankLost | None],
    ):
        """`confirmed` waits a moment for news of the death of `rank`, and returns the error for it."""
        self.worker, self.rank, self.is_watched = channels.of(rank), rank, is_watched
        self._confirmed = confirmed
        self.endpoints: list[Endpoint] = []
        self._name = f"rank {rank}"
        self._main_address = address_for(card["main"], own_rank)
        self._agent_address = address_for(card["agent"], own_rank)
        self.regions = [(address, size, bytes.fromhex(key)) for address, size, key in card["regions"]]
        self._failure = np.zeros(1, np.int64)
        self._connecting = threading.RLock()  # a finalizer may ask in the middle of it
        self._messages: Endpoint | None = None
        self._memory: Reach | None = None
        self._words: Reach | None = None

    @property
    def failure(self) -> int:
        """Status with which UCX reported the end of this peer, or 0."""
        return int(self._failure[0])

    @property
    def has_messages(self) -> bool:
        """Whether `messages` was ever used."""
        return self._messages is not None

    @property
    def messages(self) -> Endpoint:
        """To the peer's main thread; one for all threads, which keeps their messages in order."""
        if self._messages is None:
            with self._connecting:
                if self._messages is None:
                    self._messages = self._connect(self._main_address, self.is_watched)
        return self._messages

    @property
    def memory(self) -> Reach:
        """To the peer's agent: put, get, active messages."""
        if self._memory is None:
            with self._connecting:
                if self._memory is None:
                    self._memory = Reach(self._connect(self._agent_address, self.is_watched), self.regions)
        return self._memory

    @property
    def words(self) -> Reach:
        """To the peer's agent: atomics."""
        if not self.is_watched:
            return self.memory
        if self._words is None:
            with self._connecting:
                if self._words is None:
                    self._words = Reach(self._connect(self._agent_address, False), self.regions)
        return self._words

    def _connect(self, address: bytes, is_watched: bool) -> Endpoint:
        callback, word = (note_failure.address, self._failure.ctypes.data) if is_watched else (0, 0)
        try:
            endpoint = self.worker.connect(address, self._name, callback, word)
        except FabricError:  # there is nobody at that address
            if (lost := self._confirmed()) is not None:
                raise lost from None
            raise
        self.endpoints.append(endpoint)
        return endpoint
