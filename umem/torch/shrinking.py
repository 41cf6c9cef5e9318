"""Go on with a default group without some of its ranks, after a death."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch.distributed as dist

from ..errors import ConfigError, WorldError
from .process_group import GroupOptions, UmemProcessGroup

_num_shrinks = 0


def shrink(exclude: Collection[int]) -> Any:
    """Replace the default group by one without the ranks `exclude`, and return it. Collective among the others.

    All other groups end, for ranks are counted anew, in the old order. Operations under way raise WorldError. The store
    must live: where rank 0 held it, its death ends that of the others. Raises ConfigError, WorldError.
    """
    global _num_shrinks
    group = dist.group.WORLD
    if not isinstance(group, UmemProcessGroup):
        raise WorldError("the default group is none of umem's: dist.init_process_group('umem')")
    gone = set(exclude)
    left = [rank for rank in range(group.size()) if rank not in gone]
    if not gone or not gone <= set(range(group.size())) or group.rank() in gone:
        raise ConfigError(
            f"exclude={sorted(gone)}: ranks of the group of {group.size()}, and not this one, {group.rank()}"
        )
    store, timeout = dist.distributed_c10d._get_default_store(), group.timeout
    ranks = tuple(group.ranks[rank] for rank in left)
    owns_space = group.keep_space()
    _num_shrinks += 1
    dist.destroy_process_group()
    dist.init_process_group(
        "umem",
        store=dist.PrefixStore(f"shrink{_num_shrinks}", store),
        rank=ranks.index(group.space.rank),
        world_size=len(ranks),
        timeout=timeout,
        pg_options=GroupOptions(ranks, owns_space),
    )
    return dist.group.WORLD
