"""Folders for code that is compiled once and kept: the user's own, else one among the machine's temporary files."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import sys
from itertools import chain
from pathlib import Path

from .. import config
from ..units import MIB, format_size

MIN_FREE_BYTES = 32 * MIB  # all of umem's kernels take 8 MiB
WAY_OUT = "set UMEM_CACHE to a folder that can be written"

_refused: dict[Path, str] = {}  # roots that took no file, though they seemed to


def folder(name: str, ready: str) -> Path | None:
    """The folder `name` where its file `ready` stands already, else where it can be made; None: nowhere.

    One that has `ready` need not be writable. Else, where the user's own cannot be written, another is chosen, and
    that is said once.
    """
    own, *temporary = config.cache_roots()
    if (own / name / ready).exists():
        return own / name
    for root in chain([own], filter(_is_private, temporary)):
        if why_unusable(root) is None:
            path = root / name
            if root != own and not (path / ready).exists():
                _say_once(f"umem: {why_unusable(own)}; what is compiled is kept in {root}: {WAY_OUT}")
            path.mkdir(parents=True, exist_ok=True)
            return path
    _say_once(f"umem: {why_unusable(own)}; what is compiled is not kept: {WAY_OUT}")
    return None


def give_up(path: Path, error: OSError) -> None:
    """Keep nothing more in the root of `path`: a file could not be written there."""
    for root in config.cache_roots():
        if path.is_relative_to(root):
            _refused[root] = f"{root} takes no files ({error.strerror})"
    why_unusable.cache_clear()


@functools.cache
def why_unusable(root: Path) -> str | None:
    """Why nothing can be kept in the folder `root`, or None; looked at once."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(root).free
    except OSError as error:
        return f"{root} cannot be made ({error.strerror})"
    if not os.access(root, os.W_OK | os.X_OK):
        return f"{root} cannot be written"
    if free_bytes < MIN_FREE_BYTES:
        return f"{root} has {format_size(free_bytes)} of room and needs {format_size(MIN_FREE_BYTES)}"
    return _refused.get(root)


def _is_private(root: Path) -> bool:
    """Whether `root`, where others may write beside it, is this user's alone: what it holds is executed."""
    if why_unusable(root) is not None:
        return False
    found = root.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


@functools.cache
def _say_once(line: str) -> None:
    sys.stderr.write(line + "\n")
