"""The homes of a space as memory for torch's CUDA side: own GPU, another rank's, this rank's host memory.

The space's heap, whose records lie in host memory, serves them; so what one rank's torch allocates has an address that
all ranks know, and a neighbour's idle memory can be borrowed.
"""

from __future__ import annotations

from typing import cast

from ..errors import ConfigError, DeviceMissing, NotMappable
from ..heap.layout import ArenaKind
from ..heap.sites import NO_ATTRIBUTE, Site
from ..kernels.heap import entries as kernel
from ..kernels.heap.layout import MAGAZINE_ROWS
from ..kernels.page.control import KIND_DEVICE, KIND_HOST
from ..memory.device.cuda import CudaDevice
from ..space.space import Space
from . import cuda_callbacks as callbacks
from .closing import AtClose
from .cuda_pieces import Pieces, gpus
from .memory import lasting_words


class HomePieces(Pieces):
    """Pieces of the memory of one home, which this rank's GPU reaches by one offset."""

    def __init__(self, space: Space, at_close: AtClose, site: Site, number: int):
        self.number, self.site = number, site
        magazine = lasting_words(MAGAZINE_ROWS)
        kernel.open_for_nobody(magazine, site.metadata, space.heap.holder, space.rank, NO_ATTRIBUTE)
        offset = space.gpu_pointer(site.arena.base, site.arena.num_bytes)[1] - site.arena.base
        functions = callbacks.functions_of_home(number)
        device = cast(CudaDevice, space.segments.gpu)
        super().__init__(space, at_close, device, functions, space.control, magazine, offset)
        gpus()[callbacks.MAX_GPUS + number] = self.part

    def end(self, num_left: int) -> None:
        """Let the space go on to close; its memory stays mapped where torch has `num_left` pieces."""
        gpus()[callbacks.MAX_GPUS + self.number] = 0
        _made.pop(self.number)
        if num_left:
            self.space.keep_mapped()


def pieces_of_home(space: Space, at_close: AtClose, home: int | str) -> HomePieces:
    """The pieces of `home`, made when first asked for.

    Raises DeviceMissing, NotMappable where this rank's GPU does not reach it, RankLost, UnknownName.
    """
    if space.segments.gpu is None:
        raise DeviceMissing(
            f"rank {space.rank} works on the CPU: use_pool(home={home!r}) serves torch there; GPU ranks come with"
            ' umem.launch(device="cuda")'
        )
    site = space.heap.sites.at_home(home)
    kind = KIND_HOST if site.arena.kind is ArenaKind.HOST else KIND_DEVICE
    if (
        site.arena.kind is ArenaKind.STRIPED
        or not site.is_mapped
        or not space.segments.reach.by_gpu(site.arena.home, kind)
    ):
        raise NotMappable(
            f"use_gpu_pool(home={home!r}): the GPU of rank {space.rank} does not reach it by one pointer; take a rank"
            ' whose GPU is a peer, "local", or "host"'
        )
    for made in _made.values():
        if made.space is space and made.site is site:
            made.at_close = at_close
            return made
    number = next((number for number in range(callbacks.MAX_HOMES) if number not in _made), None)
    if number is None:
        raise ConfigError(f"use_gpu_pool: more than {callbacks.MAX_HOMES} homes")
    made = HomePieces(space, at_close, site, number)
    _made[number] = made
    return made


_made: dict[int, HomePieces] = {}
