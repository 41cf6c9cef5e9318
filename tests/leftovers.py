"""What a test may have left behind: processes of its session, and files in /dev/shm that nobody uses."""

from __future__ import annotations

import os
import select
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SESSION_VARIABLE = "UMEM_TEST_SESSION"  # inherited by every process that a test starts
ORPHAN_GRACE_MS = 10_000


def files_left(files_before: set[Path]) -> set[Path]:
    """Files of umem or UCX in /dev/shm that came since `files_before` and belong to no living process.

    What a living process maps belongs to another session on this machine. So does a file that is not mapped yet:
    the second look finds it mapped or gone.
    """
    unused = {path for path in shared_memory_files() - files_before if not in_use(path)}
    return {path for path in unused if path.exists() and not in_use(path)}


def shared_memory_files() -> set[Path]:
    return {path for path in SHARED_MEMORY.iterdir() if "umem" in path.name or "ucx_shm" in path.name}


def processes_of(session: str) -> list[int]:
    """Processes other than this one that inherited the session's variable."""
    marker = f"{SESSION_VARIABLE}={session}".encode()
    return [pid for pid in all_processes() if pid != os.getpid() and marker in read(pid, "environ")]


def ends_soon(pid: int) -> bool:
    """Whether `pid` ends within the grace time: the last test's processes may be on their way out."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(ORPHAN_GRACE_MS))
    finally:
        os.close(fd)


def in_use(path: Path) -> bool:
    """Whether a living process maps `path`: then it belongs to another session on this machine."""
    return any(str(path).encode() in read(pid, "maps") for pid in all_processes())


def command_line(pid: int) -> str:
    return read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""  # it ended, or it is not ours
