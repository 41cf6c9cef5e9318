"""What every test may rely on: how long soaks run, and that a session leaves nothing behind."""

from __future__ import annotations

import os
import select
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.launching"]

SHARED_MEMORY = Path("/dev/shm")
SESSION_VARIABLE = "UMEM_TEST_SESSION"  # inherited by every process that a test starts
ORPHAN_GRACE_MS = 10_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-factor", type=int, default=1, help="soaks run this many times as long")


@pytest.fixture(scope="session")
def soak_factor(request: pytest.FixtureRequest) -> int:
    """By how much a soak multiplies its rounds: 1 under `make verify`, 20 under `make check-long`."""
    return int(request.config.getoption("--soak-factor"))


@pytest.fixture(scope="session", autouse=True)
def session_leaves_nothing_behind() -> Iterator[None]:
    """Fails the session whose tests leave a process running or a file of umem or UCX in /dev/shm."""
    session = uuid.uuid4().hex
    os.environ[SESSION_VARIABLE] = session
    files_before = shared_memory_files()
    yield
    orphans = {pid: command_line(pid) for pid in processes_of(session) if not ends_soon(pid)}
    assert not orphans, f"processes that tests left running: {orphans}"
    left = {path for path in shared_memory_files() - files_before if not in_use(path)}
    assert not left, f"files that tests left: {sorted(map(str, left))}"


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


@pytest.fixture(scope="session")
def why_no_hosts() -> str | None:
    """Why this machine can hold no `hosts` world, or None."""
    from umem.errors import WorldError
    from umem.world import namespaces

    try:
        namespaces.make_network(1).close()
    except WorldError as error:
        return str(error)
    return None
