"""Machines with a small or read-only /dev/shm, or few open files: a world works there, or says what it needs."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys

import pytest

from tests.launching import SCRIPT_TIMEOUT_S, umem_command
from umem import limits
from umem.errors import FabricError
from umem.fabric.ucx import library, queues
from umem.units import MIB

# Each rank sends on a large and a small message and gets its neighbour's.
TALK = """
    import numpy, umem
    with umem.init() as space:
        after, before = (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks
        for size in (1 << 20, 8):
            own = numpy.full(size, space.rank, "uint8")
            for turn in range(2):
                if space.rank % 2 == turn:
                    space.send(own, after)
                else:
                    theirs = space.recv(before)
            assert theirs.nbytes == size and (theirs == before).all()
        print("talked", space.num_ranks)
"""
JOIN = "import umem\nwith umem.init() as space:\n    print('joined', space.num_ranks)\n"


@pytest.fixture
def run_confined(script):
    """`umem run` of a source behind shell commands, in mount and IPC namespaces of its own."""
    if subprocess.run(["unshare", "-m", "-i", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets us make no namespaces, so /dev/shm cannot be made small")

    def run(before: str, source: str, *options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "umem", "run", *map(str, options), str(script(source))]
        return subprocess.run(
            ["unshare", "-m", "-i", "sh", "-c", f"{before} && exec {shlex.join(command)}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
        )

    return run


needs_ucx = pytest.mark.skipif(not library.is_available(), reason="no libucp is installed: scripts/setup ucx")


@needs_ucx
@pytest.mark.parametrize(
    ("mounted", "num_ranks", "world"),
    [
        ("size=64m", 8, "mapped"),  # as docker has it
        ("size=1g,ro", 2, "no-peer-access"),
    ],
)
def test_ranks_talk_without_room_in_dev_shm(run_confined, mounted, num_ranks, world):
    small = f"mount -t tmpfs -o {mounted} tmpfs /dev/shm"
    ended = run_confined(small, TALK, "-n", num_ranks, "--world", world, "--segment", "64M")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"talked {num_ranks}") == num_ranks


# Rank 1 waits for the last message while those before it, 100 MiB, wait in its queue's buffers.
FLOOD = """
    import numpy, umem
    with umem.init() as space:
        if space.rank == 0:
            for number in range(12_000):
                space.send(numpy.full(4096, number % 251, "uint8"), 1)
            space.send(b"", 1, tag=1)
        else:
            space.recv(0, tag=1)
            assert all((space.recv(0) == number % 251).all() for number in range(12_000))
            print("in order")
"""


@needs_ucx
def test_messages_that_wait_may_be_more_than_dev_shm_holds(run_confined):
    small = "mount -t tmpfs -o size=80m tmpfs /dev/shm"
    ended = run_confined(small, FLOOD, "-n", 2, "--segment", "64M")
    assert (ended.returncode, ended.stdout) == (0, "[1] in order\n"), ended.stderr


@needs_ucx
def test_no_room_anywhere_is_named_with_what_is_needed(run_confined):
    nothing = "mount -t tmpfs -o size=4k tmpfs /dev/shm && echo 0 > /proc/sys/kernel/shmmni"
    ended = run_confined(nothing, JOIN, "-n", 2, "--world", "no-peer-access", "--segment", "64M")
    assert ended.returncode == 1
    assert "FabricError: the queues of UCX between 2 ranks need 17M of shared memory" in ended.stderr
    assert "--shm-size=68m" in ended.stderr and "sysctl -w kernel.shmmni=24" in ended.stderr


@pytest.mark.parametrize(
    ("free_mib", "refusal", "chosen"),
    [(256, "", "posix"), (128, "", "sysv"), (20, "is refused", "posix"), (16, "is refused", None)],
)
def test_where_queues_lie(monkeypatch, free_mib, refusal, chosen):
    assert queues.needed_bytes(2, 2) == 17 * MIB
    monkeypatch.setattr(limits, "total_memory_bytes", lambda: 1024 * MIB)
    monkeypatch.setattr(queues, "room", lambda folder: (free_mib * MIB, f"has {free_mib}M free"))
    monkeypatch.setattr(queues, "_refusal_of_sysv", lambda num_segments, num_bytes: refusal)
    if chosen is not None:
        assert queues.choose(2, 2) == chosen
        return
    with pytest.raises(FabricError, match=r"has 16M free .*and in its place SysV shared memory is refused"):
        queues.choose(2, 2)


def segments() -> list[str]:
    """SysV segments of this process, which nobody removes when it ends."""
    lines = queues._SEGMENTS.read_text().splitlines()[1:]
    return [line for line in lines if int(line.split()[4]) == os.getpid()]


def test_asking_for_sysv_memory_takes_none(monkeypatch, tmp_path):
    if queues._refusal_of_sysv(1, MIB):
        pytest.skip("this kernel gives no SysV shared memory")
    assert segments() == []
    assert "shmget of" in queues._refusal_of_sysv(1, 1 << 62)
    most, used = int(queues._SHMMNI.read_text()), len(queues._SEGMENTS.read_text().splitlines()) - 1
    assert f"has {most - used} segments left" in queues._refusal_of_sysv(most - used + 1, MIB)
    monkeypatch.setattr(queues, "_SHMMNI", tmp_path / "none")
    assert queues._refusal_of_sysv(1, MIB) == "is not in this kernel"


@pytest.mark.parametrize("num_ranks", [8, 32])  # too many for a rank; too many for the parent too
def test_a_limit_of_open_files_is_named_before_it_is_met(script, num_ranks):
    command = umem_command("run", "-n", num_ranks, "--segment", "64M", script(JOIN), for_space=num_ranks == 8)
    ended = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )
    assert ended.returncode == 1
    assert "open files, and the limit is 64: ulimit -n " in ended.stderr, ended.stderr
    assert (
        "a rank of 8 needs" if num_ranks == 8 else "umem run: the parent of 32 ranks needs"
    ) in ended.stderr


def test_a_soft_limit_of_open_files_is_raised(script):
    command = umem_command("run", "-n", 2, "--segment", "64M", script(JOIN), for_space=True)
    ended = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 1024)),
    )
    assert (ended.returncode, ended.stdout.count("joined 2")) == (0, 2), ended.stderr
