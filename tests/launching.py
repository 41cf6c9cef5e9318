"""The same function in every kind of world: `run_world(work, ranks=2, world="mapped")`.

A test that takes `world_kind` runs once in each kind. Where this machine allows no network namespaces, the
`hosts` one is skipped, and says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.parent_server import Servers
from umem.world import KINDS, WorldSpec, launch, launcher
from umem.world.job import ALL_RESULTS, Job
from umem.world.launcher import run_job

RunWorld = Callable[..., list[Any]]
RunScript = Callable[..., subprocess.CompletedProcess[str]]

# Loaded once by the parent instead of once by each rank: what test modules import.
PRELOAD = ("pytest",)
SCRIPT_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def parent_servers(session_leaves_nothing_behind: None) -> Iterator[Servers]:
    """What forks the parents of ranks, from processes that have loaded what ranks need."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(autouse=True)
def start_of_parents(monkeypatch: pytest.MonkeyPatch, parent_servers: Servers) -> None:
    """A launch of a test forks the parent of its ranks, where umem starts a program. Not so in tests/world."""
    monkeypatch.setattr(launcher, "start_parent", parent_servers.start_parent)


@pytest.fixture(params=list(KINDS))
def world_kind(request: pytest.FixtureRequest, why_no_hosts: str | None) -> str:
    """Each kind of world in turn."""
    kind = str(request.param)
    if kind == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    return kind


@pytest.fixture
def run_world() -> RunWorld:
    """Call `work(space, *args)` in each rank of a new world; returns each rank's result, by rank."""

    def run(work: Callable[..., Any], ranks: int = 2, world: str = "mapped", **options: Any) -> list[Any]:
        options.setdefault("timeout_s", 30.0)
        results: list[Any] = launch(
            work, ranks=ranks, world=world, results=ALL_RESULTS, preload=PRELOAD, **options
        )
        return results

    return run


@pytest.fixture
def run_bare() -> RunWorld:
    """As `run_world`, but `work` gets the bare world: no segments, no agent, no kernels are loaded.

    `work` stands in rank_functions.py, which imports little, or is a closure.
    """

    def run(
        work: Callable[..., Any],
        ranks: int = 2,
        world: str = "mapped",
        args: tuple[Any, ...] = (),
        **options: Any,
    ) -> list[Any]:
        options.setdefault("timeout_s", 30.0)
        spec = WorldSpec.of(ranks, world, **options)
        results: list[Any] = run_job(Job(spec, on_space=False, results=ALL_RESULTS), work, args)
        return results

    return run


def umem_command(*arguments: object, for_space: bool = False, times: Sequence[str] = ()) -> list[str]:
    """Command line of `umem` with these arguments; without `for_space` it loads nothing for a space.

    `times` replaces times of the supervisor's: see bare_umem.py.
    """
    program = ["-m", "umem"] if for_space else [str(Path(__file__).parent / "bare_umem.py"), *times]
    return [sys.executable, *program, *map(str, arguments)]


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Write a script; returns its path."""

    def write(source: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(source))
        return path

    return write


@pytest.fixture
def run_script(script: Callable[[str], Path]) -> RunScript:
    """`umem run` of a script's source to its end, with `options` before and `arguments` after it.

    A script that opens a space says `for_space=True`.
    """

    def run(
        source: str,
        *options: object,
        arguments: tuple[object, ...] = (),
        for_space: bool = False,
        times: Sequence[str] = (),
        **process: Any,
    ) -> subprocess.CompletedProcess[str]:
        command = umem_command("run", *options, script(source), *arguments, for_space=for_space, times=times)
        if "input" not in process:
            process["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=SCRIPT_TIMEOUT_S, **process
        )

    return run


@pytest.fixture
def start_script(script: Callable[[str], Path]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `umem run` of a script's source; what still runs at the test's end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(
        source: str, *options: object, for_space: bool = False, times: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            umem_command("run", *options, script(source), for_space=for_space, times=times),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(SCRIPT_TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()


def has_ended(pid: int, timeout_s: float) -> bool:
    """Whether process `pid` is gone or a zombie, now or within `timeout_s`."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)
