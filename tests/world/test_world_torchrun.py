"""Worlds of other launchers: their variables, their port, and meeting in a store."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from umem import config
from umem.errors import ConfigError, PortInUse, RankLost, WaitTimeout, WorldError
from umem.world import World, WorldSpec, join, liveness, membership, torchrun
from umem.world.world import Place

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed: scripts/setup torch"
)


@pytest.fixture
def launched(monkeypatch):
    """Set the variables of a launcher."""

    def set_variables(**values: object) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"RANK": 0, "WORLD_SIZE": 2}, "MASTER_ADDR, MASTER_PORT not"),
        ({"RANK": 2, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 9}, "RANK=2 is not below"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}, "MASTER_PORT=0"),
        ({"RANK": "one", "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 9}, "RANK='one'"),
    ],
)
def test_variables_that_make_no_world_are_named(launched, values, text):
    launched(**values)
    with pytest.raises(ConfigError, match=text):
        join()


def test_a_launcher_of_one_rank_makes_a_world_of_one(launched):
    launched(RANK=0, WORLD_SIZE=1)
    with join() as world:
        assert (world.rank, world.num_ranks, world.spec.kind) == (0, 1, "mapped")
        assert world.exchange("key", b"own") == [b"own"]


def test_a_port_that_another_program_has_is_told_before_torch_is_loaded(launched, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would raise
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        launched(RANK=0, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=port)
        with pytest.raises(PortInUse, match=f"port {port} of localhost"):
            join()


def test_without_torch_the_error_says_what_to_install(launched, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    launched(RANK=0, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=free_port())
    with pytest.raises(WorldError, match="scripts/setup torch"):
        join()


# --- what a world of another launcher is

OWN = Place(config.host_name(), liveness.machine_id(), os.getpid(), "127.0.0.1", None)


@pytest.fixture
def join_beside(launched, monkeypatch):
    """Join as rank 0 of a world of two whose rank 1 says that it is at `place`."""

    def join_world(place: Place, spec: WorldSpec | None = None) -> World:
        launched(RANK=0, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=free_port())
        store = DictStore()
        store.set("join 0/1", json.dumps(vars(place)).encode())
        monkeypatch.setattr(membership, "_process", membership._Process())
        monkeypatch.setattr(torchrun, "open_store", lambda asked, timeout_s: store)
        return join(spec)

    return join_world


def test_ranks_that_name_one_host_are_mapped(join_beside):
    with join_beside(OWN) as world:
        assert (world.spec.kind, world.spec.num_hosts, world.may_map(1)) == ("mapped", 1, True)
    with join_beside(OWN, WorldSpec.of(world="no-peer-access")) as world:
        assert (world.spec.kind, world.may_map(1)) == ("no-peer-access", False)


def test_umem_host_divides_ranks_of_one_machine(join_beside):
    with join_beside(replace(OWN, host="elsewhere")) as world:
        assert (world.spec.kind, world.spec.num_hosts, world.may_map(1)) == ("hosts", 2, False)
        assert world.is_alive(1) and world.ucx_environment["UCX_TLS"] == "tcp,self"


def test_machines_are_joined_only_through_an_interface_that_was_named(join_beside, monkeypatch):
    other = replace(OWN, host="elsewhere", machine="another kernel", pid=1)
    with pytest.raises(WorldError, match="UMEM_NETWORK"):
        join_beside(other)
    monkeypatch.setenv("UMEM_NETWORK", "lo")
    with join_beside(other) as world:
        assert world.spec.kind == "hosts" and not world.shares_pids(1)
        with pytest.raises(WorldError, match="another machine"):
            world.pidfd(1)


# --- meeting in a store


class DictStore:
    """A store as torch's looks to umem, for threads of one process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def test_ranks_gather_in_a_store():
    store, gathered = DictStore(), {}

    def take_part(rank: int) -> None:
        gathered[rank] = torchrun.StoreRendezvous(store, rank, 3).gather("key", b"%d" % rank, 30.0)

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert gathered == {rank: [b"0", b"1", b"2"] for rank in range(3)}


def test_waits_in_a_store_have_a_deadline_and_name_the_missing():
    rendezvous = torchrun.StoreRendezvous(DictStore(), 1, 3)
    with pytest.raises(WaitTimeout, match="for rank 0, 2"):
        rendezvous.gather("key", b"", 0.05)
    with pytest.raises(WaitTimeout, match="'absent'"):
        rendezvous.get("absent", 0.05)
    rendezvous.set("present", b"value", 1.0)
    assert rendezvous.get("present", 1.0) == b"value"


def test_a_death_ends_a_wait_in_a_store_unless_the_rank_had_sent_its_part():
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    child.wait(30)
    try:
        store = DictStore()
        rendezvous = torchrun.StoreRendezvous(store, 0, 2)
        rendezvous.pidfds = {1: pidfd}
        with pytest.raises(RankLost, match="'lost'"):
            rendezvous.gather("lost", b"", 30.0)
        store.set("kept/1", b"last words")
        assert rendezvous.gather("kept", b"own", 30.0) == [b"own", b"last words"]
    finally:
        os.close(pidfd)


def test_a_store_that_is_gone_is_told_as_such():
    class BrokenStore(DictStore):
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("Connection was likely closed")

    with pytest.raises(WorldError, match="store of this world is gone"):
        torchrun.StoreRendezvous(BrokenStore(), 0, 2).gather("key", b"", 30.0)


# --- with torch itself

SCRIPT = """
import os, sys
from umem.errors import RankLost
import torch.distributed as dist
from umem.world import join

group_comes_first = "group first" in sys.argv
if group_comes_first:
    dist.init_process_group("gloo")
with join() as world:
    assert world.num_ranks == 2 and world.hosts[0] == world.hosts[1] and world.may_map(1 - world.rank)
    assert world.spec.kind == "mapped" and world.pids[world.rank] == os.getpid()
    ranks = world.exchange("ranks", b"%d" % world.rank)
    read_end, write_end = os.pipe()
    os.write(write_end, b"through rank %d" % world.rank)
    theirs = world.share_fds("pipe", [read_end])
    told = os.read(theirs[1 - world.rank][0], 100).decode()
    os.write(1, f"{ranks} {told}\\n".encode())  # one write: both ranks share the pipe
    if not group_comes_first:
        dist.init_process_group("gloo")  # over the same port
    dist.barrier()
    assert world.exchange("after", b"x") == [b"x", b"x"]
with join() as world:
    assert world.exchange("again", b"y") == [b"y", b"y"]
    dist.barrier()
    dist.destroy_process_group()
    if sys.argv[1:] == ["then die"]:
        if world.rank == 1:
            os.kill(os.getpid(), 9)
        try:
            world.exchange("never", b"")
        except RankLost as error:
            print(error)
"""


@pytest.fixture
def torch_script(tmp_path, monkeypatch):
    """Path of SCRIPT, and lines written whole."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@needs_torch
def test_ranks_of_torchrun_meet_where_torch_distributed_met(torch_script):
    options = ["--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", *options, torch_script, "group first"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"[b'0', b'1'] through rank {rank}" for rank in range(2)]


@needs_torch
def test_ranks_of_a_plain_launcher_meet_at_rank_0_and_hear_of_a_death(torch_script):
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, torch_script, "then die"],
            env={**os.environ, **variables, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, -9], outputs
    first, second = outputs[0][0].splitlines()
    assert first == "[b'0', b'1'] through rank 1" and second.startswith("rank 1 is dead"), outputs
