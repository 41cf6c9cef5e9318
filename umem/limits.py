"""The machine's limits for this process: cores, caches, memory, and control groups, version 2 and 1.

A limit may stand on the process's own group or on any group above it; the tightest holds. Page cache
that the kernel can drop counts as free, as it does in MemAvailable: without that a container that has read
a large file would seem full. Shared memory is not dropped and counts as used.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError
from .units import parse_size

UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True)
class MemoryLimit:
    """A control group's memory limit, and the part of it that is free, in bytes."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class _Files:
    """Names of the same facts in one version of control groups; `droppable` are fields of memory.stat."""

    limit: str
    used: str
    droppable: tuple[str, ...]


_V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Every memory limit that holds for this process; empty where there is none."""
    found = []
    for group in _groups(root):
        files = _V2 if (group / _V2.limit).exists() else _V1
        limit = _number(group / files.limit)
        if limit is None or limit >= UNLIMITED:
            continue
        stat = _fields(group / "memory.stat")
        used = (_number(group / files.used) or 0) - sum(stat.get(name, 0) for name in files.droppable)
        found.append(MemoryLimit(limit, max(limit - max(used, 0), 0)))
    return found


def _groups(root: Path) -> list[Path]:
    """Folders of this process's groups that control memory, and of all groups above them.

    A container often sees its own group as the root of the hierarchy while /proc names it by its path on the
    host: the mount point itself is always looked at.
    """
    groups: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        groups += [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return groups


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # no control groups, or not this version


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None  # "max" is no limit


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def available_memory_bytes() -> int:
    """Memory that this process can still get: the kernel's MemAvailable, or less where its container has less left."""
    return min([_meminfo("MemAvailable"), *(limit.free_bytes for limit in memory_limits())])


def total_memory_bytes() -> int:
    """Memory of this machine, or its container's limit where that is lower."""
    return min([_meminfo("MemTotal"), *(limit.total_bytes for limit in memory_limits())])


def l2_cache_bytes() -> int:
    """Level 2 cache of one core; 1 MiB where the kernel does not say."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "level").read_text().strip() == "2":
            return parse_size((index / "size").read_text())
    return 1 << 20


def cpu_model() -> str:
    """Name of the processor, as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def usable_cores() -> list[int]:
    """Cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def _meminfo(field: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ConfigError(f"/proc/meminfo has no field {field}")
