"""The description of the machine that a result is from."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import umem
from umem import limits
from umem.units import format_size


def machine() -> dict[str, Any]:
    """This machine and this copy of umem, as written beside results."""
    return {
        "host": description(),
        "cpu": limits.cpu_model(),
        "cores": len(limits.usable_cores()),
        "memory": format_size(limits.total_memory_bytes()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numba": metadata.version("numba"),
        "version": version(),
        "commit": commit(),
    }


def description() -> str:
    """One short line: processor, cores, kernel."""
    return f"{limits.cpu_model()}, {len(limits.usable_cores())} cores, Linux {platform.release()}"


def version() -> str:
    """Version of the umem that runs."""
    return metadata.version("umem")


def commit() -> str:
    """Commit of the tree that umem runs from, `+` after it where files differ; "" for an installed copy."""
    root = Path(umem.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""  # no git here, or no commit yet
    return head + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
