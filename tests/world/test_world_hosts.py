"""Hosts as network namespaces: what is made, for whom, and what is said where none can be made."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from umem.errors import WorldError
from umem.world import namespaces


def test_namespaces_vanish_with_their_descriptors(why_no_hosts):
    if why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    before = set(os.listdir("/proc/self/fd"))
    names_before = set(Path("/run/netns").iterdir()) if Path("/run/netns").exists() else set()
    network = namespaces.make_network(2)
    assert len({os.fstat(fd).st_ino for fd in network.fds}) == len(network.fds) >= 3
    network.close()
    assert set(os.listdir("/proc/self/fd")) == before
    names = set(Path("/run/netns").iterdir()) if Path("/run/netns").exists() else set()
    assert names == names_before


def test_the_maker_of_a_network_stays_in_its_own(why_no_hosts):
    if why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    before = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "user")]
    namespaces.make_network(1).close()
    assert [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "user")] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="this user is ordinary already: the other tests show it")
def test_an_ordinary_user_makes_hosts_in_a_user_namespace(why_no_hosts):
    """As user 65534, without any capability: it stays this user, in its own and in other processes' eyes."""
    if why_no_hosts is not None or not _may_make_user_namespaces():
        pytest.skip(why_no_hosts or "no user namespaces here: sysctl user.max_user_namespaces")
    program = """
        import os, pyroute2, sys, cloudpickle
        from umem.world import WorldSpec
        from umem.world.ranks import run_function
        from umem.world.supervisor import Supervisor

        def work(world):
            read_end, write_end = os.pipe()
            os.write(write_end, b"x")
            peers = world.share_fds("pipe", [read_end])
            told = world.exchange("uid", b"%d" % os.getuid())
            print(told, sorted(peers), os.listdir("/proc/self/task") == [str(os.getpid())], flush=True)

        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        pickled = cloudpickle.dumps((work, ()))
        spec = WorldSpec.of(4, "hosts", pin=False)
        sys.exit(Supervisor(spec, lambda rank, channel: run_function(channel, pickled, False, False)).run().exit_code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [f"[{rank}] {[b'65534'] * 4} {[rank ^ 1]} True" for rank in range(4)]
    assert sorted(done.stdout.splitlines()) == expected


def _may_make_user_namespaces() -> bool:
    limit = Path("/proc/sys/user/max_user_namespaces")
    return limit.exists() and int(limit.read_text()) > 0


def test_where_namespaces_are_forbidden_the_error_has_the_way_out(monkeypatch):
    def forbidden() -> int:
        raise PermissionError(1, "unshare(CLONE_NEWNET): Operation not permitted")

    monkeypatch.setattr(namespaces, "_new_network", forbidden)
    monkeypatch.setattr(namespaces, "_enter_user_namespace", forbidden)
    with pytest.raises(WorldError, match=r"Operation not permitted.*no-peer-access"):
        namespaces.make_network(2)


def test_without_pyroute2_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(WorldError, match="pip install pyroute2"):
        namespaces.make_network(2)


def test_a_maker_that_is_killed_is_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(namespaces, "_build", lambda num_hosts: os.kill(os.getpid(), 9))
    with pytest.raises(WorldError, match="died"):
        namespaces.make_network(2)


def test_addresses_stay_inside_the_network():
    addresses = [namespaces.ip_address(index) for index in range(namespaces.MAX_HOSTS)]
    assert len(set(addresses)) == namespaces.MAX_HOSTS
    assert all(1 <= int(address.split(".")[3]) <= 254 for address in addresses)
