"""The backend "umem" of torch.distributed: `dist.init_process_group("umem")`.

torch 2.13 takes a subclass of ProcessGroup in the place of a backend, and no subclass of Backend written in Python; so
a group is all of umem's, on whatever devices its tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Work

from ..collectives.team import Team
from ..errors import ConfigError, WorldError
from ..space import current
from ..space.space import Space, current_space, init
from ..world import Meeting
from .group_calls import GroupCalls
from .group_messages import GroupMessages
from .works import Engine

GROUP_COUNT_BITS = 7  # of a group's number: how many its first member has made; above them that member's rank


@dataclass(frozen=True)
class GroupOptions:
    """`pg_options` of a group: `ranks` of the world that are its members, in their order (default: all).

    With `owns_space` the end of the group closes the space, also where it was open before.
    """

    ranks: tuple[int, ...] | None = None
    owns_space: bool = False


class UmemProcessGroup(GroupCalls, dist.ProcessGroup):
    """A group of ranks. Its collectives are those of a team; see docs/distributed.md."""

    def __init__(self, space: Space, ranks: Sequence[int], name: str, timeout_s: float, owns_space: bool):
        position = list(ranks).index(space.rank)
        dist.ProcessGroup.__init__(self, position, len(ranks))
        self.space, self._position, self._size = space, position, len(ranks)
        self.ranks = tuple(ranks)
        GroupCalls.__init__(
            self, Team(space, ranks, f"torch/{name}", timeout_s), Engine(f"umem-group-{name}")
        )
        self._name, self._description, self._owns_space = name, "", owns_space
        self.timeout = timedelta(seconds=timeout_s)
        self._messages = GroupMessages(space, ranks, self._agreed_number(), timeout_s)

    def _agreed_number(self) -> int:
        number = np.array([_next_number()], np.int64)
        self.team.broadcast(number)
        return self.ranks[0] << GROUP_COUNT_BITS | int(number[0]) & (1 << GROUP_COUNT_BITS) - 1

    # --- messages

    def send(self, tensors: list[torch.Tensor], dst: int, tag: int = 0) -> Work:
        """Send a tensor to a member."""
        (tensor,) = tensors
        return self._messages.send(tensor, dst, tag)

    def recv(self, tensors: list[torch.Tensor], src: int, tag: int = 0) -> Work:
        """Receive a tensor from a member."""
        (tensor,) = tensors
        return self._messages.recv(tensor, src, tag)

    def recv_anysource(self, tensors: list[torch.Tensor], tag: int = 0) -> Work:
        """Receive a tensor from whichever member sends first."""
        (tensor,) = tensors
        return self._messages.recv(tensor, None, tag)

    # --- what torch asks about a group; the names are those of its C++ class

    def rank(self) -> int:
        """This process's rank in the group."""
        return self._position

    def size(self) -> int:
        """Number of members."""
        return self._size

    def getRank(self) -> int:
        """The same, asked by C++."""
        return self._position

    def getSize(self) -> int:
        """The same, asked by C++."""
        return self._size

    def getBackendName(self) -> str:
        """umem."""
        return "umem"

    name = _get_backend_name = getBackendName

    def setGroupName(self, name: str) -> None:
        """Take the name by which torch finds the group."""
        self._name = name

    def getGroupName(self) -> str:
        """That name."""
        return self._name

    def setGroupDesc(self, description: str) -> None:
        """Take a description."""
        self._description = description

    def getGroupDesc(self) -> str:
        """That description."""
        return self._description

    _set_group_name, _set_group_desc = setGroupName, setGroupDesc
    group_name = property(getGroupName)
    group_desc = property(getGroupDesc)
    bound_device_id = None
    supports_splitting = supports_coalescing = supports_time_estimate = supports_shrinking = False

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> UmemProcessGroup:
        return self

    def _has_hooks(self) -> bool:
        return False

    def _set_sequence_number_for_group(self) -> None:
        """Nothing: the team counts."""

    def set_timeout(self, timeout: timedelta) -> None:
        """Bound every later wait by `timeout`."""
        self.timeout = timeout
        self.team.set_timeout(timeout.total_seconds())

    _set_default_timeout = set_timeout

    # --- the end

    def shutdown(self) -> None:
        """End the group, without waiting for the other members; the space too, where the group has opened it."""
        self.team.end()
        self.engine.close()
        if self._owns_space:
            self.space.close()
        else:
            self.team.leave()

    abort = shutdown

    def keep_space(self) -> bool:
        """Have the end of this group leave the space open; whether it would have closed it."""
        owned, self._owns_space = self._owns_space, False
        return owned


_num_groups = 0
_world_ranks: tuple[int, ...] = ()  # of the default group: torch's ranks as ranks of the world


def _next_number() -> int:
    global _num_groups
    _num_groups += 1
    return _num_groups


def create(opts: Any, options: Any = None) -> UmemProcessGroup:
    """The group that torch asks for: the default one of all ranks of the world, or a part of that.

    The default group joins the open space of this process, or opens one over torch's store, which it then closes.
    Raises ConfigError for options of another backend, WorldError where the open space has other ranks.
    """
    global _world_ranks
    if options is not None and not isinstance(options, GroupOptions):
        raise ConfigError(f"pg_options of backend umem are umem.torch.GroupOptions, not {options!r}")
    timeout_s = opts.timeout.total_seconds()
    asked = None if options is None else options.ranks
    owns_space = options is not None and options.owns_space
    if opts.global_ranks_in_group:
        space = current_space()
        ranks = asked or tuple(_world_ranks[rank] for rank in opts.global_ranks_in_group)
    else:
        if not current.is_open():
            owns_space = True
            space = init(meeting=Meeting(opts.store, opts.group_rank, opts.group_size, timeout_s))
        else:
            space = current_space()
        ranks = _world_ranks = asked or tuple(range(space.num_ranks))
    try:
        if len(ranks) != opts.group_size or ranks[opts.group_rank] != space.rank:
            raise WorldError(
                f"torch asks for rank {opts.group_rank} of {opts.group_size}, and this process is rank {space.rank} of"
                f" {space.num_ranks} in its space: start both with the same launcher, or pass"
                " pg_options=umem.torch.GroupOptions(ranks)"
            )
        return UmemProcessGroup(space, ranks, opts.group_id, timeout_s, owns_space)
    except BaseException:
        if owns_space:  # nobody else would close it, and this process could open no other
            space.close(is_forced=True)
        raise
