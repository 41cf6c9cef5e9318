"""What every test may rely on: how long soaks run, and that a session leaves nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import (
    SESSION_VARIABLE,
    command_line,
    ends_soon,
    files_left,
    processes_of,
    shared_memory_files,
)

BASE = 0x2000_0000_0000  # umem/memory/address.py, which loads Numba

pytest_plugins = ["tests.launching"]


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
    left = files_left(files_before)
    assert not left, f"files that tests left: {sorted(map(str, left))}"


@pytest.fixture(scope="module", autouse=True)
def module_leaves_the_environment() -> Iterator[None]:
    """Fails a file of tests that leaves variables changed: programs of later tests would start with others."""
    before = _environment()
    yield
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it where it compiles
    assert _environment() == before


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


@pytest.fixture(scope="module", autouse=True)
def module_leaves_the_addresses_free() -> Iterator[None]:
    """Fails a file of tests after which this process still has a range at the addresses of a space: the next one that
    wants them would fail in its place."""
    yield
    gc.collect()  # a reservation may go with an object in a cycle
    start = f"{BASE:x}-"
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.startswith(start)]
    assert not held, f"addresses that these tests left in use: {held}"


@pytest.fixture(scope="session", autouse=True)
def a_hangup_ends_what_tests_start() -> None:
    """Under nohup too, where a hangup is ignored: what is ignored is inherited, what is handled is not."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


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
