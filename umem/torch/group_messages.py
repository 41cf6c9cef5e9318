"""Sends and receives of torch.distributed, over umem's messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch._C._distributed_c10d import Work

from ..errors import CollectiveMismatch, ConfigError, FabricMissing
from ..fabric.ucx.fabric import UcxFabric
from ..fabric.ucx.library import INSTALL_UCX
from ..fabric.ucx.parcels import LARGE_BYTES
from ..fabric.ucx.tags import TENSOR
from ..space.space import Space
from .works import Done, Pending

NUMBER_SHIFT = 24  # a tag: the group's number above, the program's own below
MAX_GROUP_TAG = (1 << NUMBER_SHIFT) - 1
MAX_NUMBER = (1 << 16) - 1


class GroupMessages:
    """Messages between the members of a group. Those from one member with one tag arrive in the order sent.

    Each message that does not leave at once has a thread of its own while it is under way, so that none waits for
    another, but for those of one tag.
    """

    def __init__(self, space: Space, ranks: Sequence[int], number: int, timeout_s: float):
        self._space, self._ranks, self._timeout_s = space, list(ranks), timeout_s
        self._number = number & MAX_NUMBER
        self._lock = threading.Lock()
        self._last: dict[Hashable, Pending] = {}  # under way, by direction, member and tag

    def send(self, tensor: torch.Tensor, member: int, tag: int) -> Work:
        """Send to a member of the group; the tensor may change when the Work has ended."""
        rank, wire_tag, fabric = self._ranks[member], self._tag(tag), self._fabric()
        data = _bytes_of(tensor.contiguous())

        def step() -> int:
            fabric.parcels.send(rank, data, wire_tag, self._timeout_s)
            return member

        key = ("send", member, tag)
        if data.nbytes < LARGE_BYTES and key not in self._last:
            step()
            return Done([tensor])
        return self._start(key, step, tensor)

    def recv(self, tensor: torch.Tensor, member: int | None, tag: int) -> Work:
        """Receive from a member of the group, or from any."""
        wire_tag, fabric = self._tag(tag), self._fabric()

        def step() -> int:
            if member is None:
                others = [rank for rank in self._ranks if rank != self._space.rank]
                rank, data = fabric.parcels.recv_any(others, wire_tag, self._timeout_s)
            else:
                rank = self._ranks[member]
                data = fabric.parcels.recv(rank, wire_tag, self._timeout_s)
            self._fill(tensor, data, rank, tag)
            return self._ranks.index(rank)

        return self._start(("recv", member, tag), step, tensor)

    def _fill(self, tensor: torch.Tensor, data: np.ndarray, rank: int, tag: int) -> None:
        taken = tensor.numel() * tensor.element_size()
        if data.nbytes != taken:
            raise CollectiveMismatch(
                self._space.rank, f"recv({taken} bytes, tag {tag})", rank, f"send({data.nbytes} bytes)"
            )
        if taken:
            source = torch.from_numpy(data).view(tensor.dtype)
            tensor.detach().copy_(source.view(tensor.shape))

    def _start(self, key: Hashable, step: Callable[[], int], tensor: torch.Tensor) -> Work:
        work = Pending([tensor])
        with self._lock:
            before, self._last[key] = self._last.get(key), work

        def run() -> None:
            error: BaseException | None = None
            try:
                if before is not None:
                    before.await_end()
                work.source = step()
            except BaseException as raised:  # noqa: BLE001 - the thread that waits for it raises it
                error = raised
            with self._lock:
                if self._last[key] is work:
                    del self._last[key]
            work.settle(error)

        threading.Thread(target=run, name="umem-message", daemon=True).start()
        return work

    def _tag(self, tag: int) -> int:
        if not 0 <= tag <= MAX_GROUP_TAG:
            raise ConfigError(f"tag={tag} is not between 0 and {MAX_GROUP_TAG}")
        return TENSOR | self._number << NUMBER_SHIFT | tag

    def _fabric(self) -> UcxFabric:
        fabric: Any = self._space.fabric
        if fabric is None:
            raise FabricMissing(f"send and recv need UCX, which is not installed. Fix: {INSTALL_UCX}")
        return fabric


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """The same memory; it keeps the tensor."""
    flat = tensor.detach().flatten()
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
