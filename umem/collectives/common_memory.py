"""Where the members of a team meet: the memory that the processors of all of them reach, as each has told the others.

Plain data, and the same for all members: it decides where pages lie and which way an operation goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import NotMappable
from ..kernels.collective.layout import GPU_HOME
from ..kernels.page.control import KIND_DEVICE, KIND_HOST, REACH_KINDS

HALF_BYTES = 128 << 10  # of staging memory: two of them and a reader's part fit a core's second-level cache
GPU_HALF_BYTES = 1 << 20  # a GPU fills and empties more at once, and an exchange takes it longer
_KINDS_MASK = (1 << REACH_KINDS) - 1


@dataclass(frozen=True)
class CommonMemory:
    """`home` is where each member's page lies: "local", or "host". `reach` has a word for each rank of the world, as
    TEAM_REACH; it is empty where CPUs meet CPUs, which map all or nothing."""

    home: str
    half_bytes: int
    reach: tuple[int, ...] = ()


def side_of(words: Iterable[int], is_gpu: bool) -> list[int]:
    """Of a rank's reach table (memory/reach.py): what its processor reaches, a bit for each kind of memory."""
    return [word >> (REACH_KINDS * is_gpu) & _KINDS_MASK for word in words]


def common_memory_of(told: Mapping[int, list[int]], gpu_ranks: frozenset[int]) -> CommonMemory:
    """What the members `told` share, with what the processor of each reaches, some of which are `gpu_ranks`.

    In HBM where all are GPUs that reach each other's, else in host memory. Raises NotMappable, at all members, where
    there is no memory that all reach.
    """
    members = sorted(told)
    reach = [_in_common(told[member][rank] for member in members) for rank in range(len(told[members[0]]))]
    words = tuple(word | (GPU_HOME if rank in gpu_ranks else 0) for rank, word in enumerate(reach))
    if set(members) <= gpu_ranks and all(reach[rank] >> KIND_DEVICE & 1 for rank in members):
        return CommonMemory("local", GPU_HALF_BYTES, words)
    if all(reach[rank] >> KIND_HOST & 1 for rank in members):
        return CommonMemory("host", HALF_BYTES, words)
    far = [
        f"that of rank {rank} from rank {member}"
        for member in members
        for rank in members
        if not told[member][rank] >> KIND_HOST & 1
    ]
    raise NotMappable(
        "the members' GPUs and CPUs meet in the ranks' host memory, and not all reach it:"
        f" {', '.join(far[:4])}{', ...' if len(far) > 4 else ''}"
    )


def _in_common(words: Iterable[int]) -> int:
    common = _KINDS_MASK
    for word in words:
        common &= word
    return common
