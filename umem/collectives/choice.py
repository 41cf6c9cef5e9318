"""Which way the operations of a team go: agreed on by its members when they make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import CollectiveMismatch, NotMappable, UnknownName
from ..kernels.page.control import KIND_DEVICE, KIND_HOST
from .buffers import Buffer, buffer_of
from .links import hosts_of
from .mapped import MappedTeam
from .member import Member, told

if TYPE_CHECKING:
    from ..space.space import Space

TEAM_SEMANTICS = ("auto", "load_store", "message")


def make_member(
    space: Space, ranks: Sequence[int], key: str, timeout_s: float, semantics: str, number: int
) -> tuple[Member, Callable[..., Buffer]]:
    """This rank's part of the team of `ranks`, and what finds its buffers. Collective.

    `number` tells the teams apart whose first member is the same; that member's counts. "auto" is load_store where all
    members map each other's memory or one works on a GPU; else levels, where members share hosts on which they do
    (links.py: `hosts_of`); else message. Raises UnknownName; CollectiveMismatch where members ask for different
    semantics; NotMappable.
    """
    if semantics not in TEAM_SEMANTICS:
        raise UnknownName("semantics", semantics, TEAM_SEMANTICS)
    on_gpus = not set(space.segments.map.gpu_ranks).isdisjoint(ranks)
    reach = space.segments.reach
    away = [r for r in ranks if not (reach.by_cpu(r, KIND_DEVICE) and reach.by_cpu(r, KIND_HOST))]
    hosts = hosts_of([space.world.hosts[rank] for rank in ranks])
    maps_mates = space.world.host not in {space.world.hosts[rank] for rank in away}
    mine = f"{semantics} {int(not away)} {int(maps_mates)} {number}"
    texts = [text.decode().split() for text in told(space, ranks, f"{key}/semantics", mine, timeout_s)]
    for rank, (other, *_) in zip(ranks, texts, strict=True):
        if other != semantics:
            asked, its = (f"Team(semantics={name!r})" for name in (semantics, other))
            raise CollectiveMismatch(space.rank, asked, rank, its)
    all_map, all_map_mates = (all(text[index] == "1" for text in texts) for index in (1, 2))
    # Two: a team by levels has one of leaders too.
    number = 2 * int(texts[0][3])
    if on_gpus and semantics == "message":
        raise NotMappable("a team by messages has no ranks that work on GPUs; use semantics='load_store'")
    if semantics == "message" or (semantics == "auto" and not all_map and not on_gpus):
        from .levels import LevelTeam  # these load UCX
        from .message import MessageTeam

        if semantics == "auto" and hosts and all_map_mates:
            return LevelTeam(space, ranks, key, timeout_s, number, hosts), buffer_of
        return MessageTeam(space, ranks, key, timeout_s, number), buffer_of
    if not on_gpus and not all_map:
        whose = f"ranks {away}" if away else "others"
        raise NotMappable(
            f"rank {space.rank} does not map the memory of {whose}, or another member does not map all:"
            " collectives by loads and stores need that; use semantics='message'"
        )
    if space.segments.gpu is None:
        return MappedTeam(space, ranks, key, timeout_s), buffer_of
    from .gpu import GpuTeam  # these load what compiles for CUDA
    from .gpu_buffers import GpuBuffers

    return GpuTeam(space, ranks, key, timeout_s), GpuBuffers(space)
