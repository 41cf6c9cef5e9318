"""The queues of UCX's shared memory: how large they are, and where they lie.

UCX's posix transport keeps them in files of /dev/shm, which containers make small (docker: 64 MB). Without room there,
at the start or later, UCX takes private memory in place of shared, and dies of a segmentation fault. Its sysv
transport is the same code over SysV segments, which count as memory and need no file system; UCX removes each as soon
as it is attached, so none outlives its processes. They are open to the user's group, which files are not, and the
kernel allows fewer of them: so they are the second choice.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ... import config, limits
from ...errors import FabricError
from ...units import format_size
from .library import unset

POSIX, SYSV = "posix", "sysv"
TOTAL_PLACES = 256  # messages that wait, all channels of a thread together; UCX's own for one queue
MIN_PLACES = 16
PLACE_BYTES = 17 << 10  # of a place and its two buffers; measured with 1.22: 16.5 to 16.8 KiB
THREADS = 2  # of a rank that have channels: the user's and the agent's
# Messages that nobody has asked for yet keep their buffers, and UCX takes more, as many as come. In a full file system
# it dies: so it gets one that lasts about as long as memory.
_ROOM = 4  # times what the queues take from the start
MEMORY_SHARE = 4  # and this part of memory
SEGMENTS_PER_WORKER = 3  # places, buffers, and buffers again

_SHMMNI = Path("/proc/sys/kernel/shmmni")
_SEGMENTS = Path("/proc/sysvipc/shm")
_IPC_PRIVATE, _IPC_RMID = 0, 0


class Ranks(Protocol):
    """What an agreement needs of a world."""

    @property
    def num_ranks(self) -> int:
        """Ranks of the world."""

    @property
    def ucx_environment(self) -> Mapping[str, str]:
        """UCX_TLS and the like."""

    def exchange(self, key: str, blob: bytes) -> list[bytes]:
        """Everybody's blob, by rank. Collective."""


def agree(world: Ranks, num_channels: int) -> dict[str, str]:
    """UCX's variables of this world, its queues where rank 0 finds room for them. Collective.

    Called before any rank has made its queues: later there would be less room to see. Raises FabricError, in every
    rank, where there is none.
    """
    variables = {**world.ucx_environment, **environment(num_channels)}
    ways = variables.get("UCX_TLS", "").split(",")
    if POSIX not in ways:
        return variables
    way, problem = POSIX, ""
    try:
        way = choose(world.num_ranks, num_channels)
    except FabricError as error:
        problem = str(error)
    way, problem = json.loads(world.exchange("ucx queues", json.dumps([way, problem]).encode())[0])
    if problem:
        raise FabricError(problem)
    return variables | {"UCX_TLS": ",".join(way if name == POSIX else name for name in ways)}


def places(num_channels: int) -> int:
    """Places of each queue of a thread that has so many: together as many as UCX gives to one."""
    return max(MIN_PLACES, 1 << (TOTAL_PLACES // num_channels).bit_length() - 1)


def environment(num_channels: int) -> dict[str, str]:
    """UCX's variables that make queues so large. What the user has set stays."""
    sizes = {"FIFO_SIZE": places(num_channels), "RX_BUFS_GROW": 2 * places(num_channels)}
    variables = {
        f"UCX_{way.upper()}_{name}": str(size) for way in (POSIX, SYSV) for name, size in sizes.items()
    }
    # UCX's own check of /dev/shm knows no number of ranks, and failing it is the segmentation fault.
    return unset(variables | {"UCX_POSIX_SHM_MIN_SIZE": "0"})


def needed_bytes(num_ranks: int, num_channels: int) -> int:
    """Shared memory that the queues of `num_ranks` on one host take from the start."""
    num_places = config.integer("UCX_POSIX_FIFO_SIZE") or places(num_channels)
    return num_ranks * THREADS * num_channels * num_places * PLACE_BYTES


def choose(num_ranks: int, num_channels: int) -> str:
    """Where the queues of the `num_ranks` of a host are to lie: POSIX or SYSV.

    Raises FabricError, with the room that is needed and the lines that make it, where neither has it.
    """
    needed = needed_bytes(num_ranks, num_channels)
    folder = config.text("UCX_POSIX_DIR") or "/dev/shm"
    free, problem = room(folder)
    if free >= max(_ROOM * needed, limits.total_memory_bytes() // MEMORY_SHARE):
        return POSIX
    refusal = _refusal_of_sysv(num_ranks * THREADS * num_channels * SEGMENTS_PER_WORKER, needed)
    if not refusal:
        return SYSV
    if free >= needed:
        return POSIX
    size = f"{-(-_ROOM * needed >> 20)}m"
    raise FabricError(
        f"the queues of UCX between {num_ranks} ranks need {format_size(needed)} of shared memory: {folder} {problem}"
        f" (docker run --shm-size={size}, or mount -o remount,rw,size={size} {folder}), and in its place"
        f" SysV shared memory {refusal}"
    )


def room(folder: str) -> tuple[int, str]:
    """Bytes that this process may take there, and in words."""
    try:
        stat = os.statvfs(folder)
    except OSError as error:
        return 0, f"cannot be used: {error.strerror}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return 0, "cannot be written"
    free = stat.f_bavail * stat.f_frsize
    return free, f"has {format_size(free)} free"


def _refusal_of_sysv(num_segments: int, num_bytes: int) -> str:
    """Why the kernel would not give so many SysV segments; nothing where it would."""
    try:
        most, used = int(_SHMMNI.read_text()), len(_SEGMENTS.read_text().splitlines()) - 1
    except OSError:
        return "is not in this kernel"
    if most - used < num_segments:
        left, wanted = max(0, most - used), used + num_segments
        return f"has {left} segments left, not {num_segments} (sysctl -w kernel.shmmni={wanted})"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    segment = libc.shmget(_IPC_PRIVATE, num_bytes, 0o600)
    if segment < 0:
        return f"is refused: shmget of {format_size(num_bytes)}: {os.strerror(ctypes.get_errno())}"
    libc.shmctl(segment, _IPC_RMID, None)
    return ""
