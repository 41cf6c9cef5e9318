"""Descriptors go to ranks of this world and to nobody else; what is not a rank is sent away."""

from __future__ import annotations

import array
import os
import resource
import socket
import subprocess
import sys
import threading

import pytest

from umem.errors import RankLost, WorldError
from umem.world import descriptors, local_sockets


class Meeting:
    """Two ranks as threads of this process: what `share` needs of a world, and a place for trouble."""

    def __init__(self, before_share=lambda names: None, alive=True):
        self.names: dict[int, bytes] = {}
        self.barrier = threading.Barrier(2, timeout=30)
        self.before_share, self.alive = before_share, alive

    def rank(self, number: int) -> Rank:
        return Rank(self, number)


class Rank:
    num_ranks = 2

    def __init__(self, meeting: Meeting, rank: int):
        self.meeting, self.rank = meeting, rank

    def may_map(self, rank: int) -> bool:
        return True

    def is_alive(self, rank: int) -> bool:
        return self.meeting.alive

    def exchange(self, key: str, blob: bytes, timeout_s: float | None = None) -> list[bytes]:
        self.meeting.names[self.rank] = blob
        if self.meeting.barrier.wait() == 0:
            self.meeting.before_share([self.meeting.names[rank] for rank in range(2)])
        self.meeting.barrier.wait()
        return [self.meeting.names[rank] for rank in range(2)]


def share_both(meeting: Meeting, fds: list[list[int]]) -> list[object]:
    """What both ranks get, or the error that they meet."""
    results: list[object] = [None, None]

    def run(rank: int) -> None:
        try:
            results[rank] = descriptors.share(meeting.rank(rank), "key", fds[rank], 5.0)
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.fixture
def pipes():
    """A pipe for each of two ranks."""
    ends = [os.pipe(), os.pipe()]
    yield [list(pair) for pair in ends]
    for pair in ends:
        for fd in pair:
            os.close(fd)


def inodes(fds: list[int]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


def check_and_close(results: list[object], pipes: list[list[int]]) -> None:
    for rank in range(2):
        assert isinstance(results[rank], dict), results[rank]
        assert list(results[rank]) == [1 - rank] and inodes(results[rank][1 - rank]) == inodes(
            pipes[1 - rank]
        )
        for fd in results[rank][1 - rank]:
            os.close(fd)


def test_each_rank_gets_the_others_descriptors_and_keeps_no_more(pipes):
    before = set(os.listdir("/proc/self/fd"))
    check_and_close(share_both(Meeting(), pipes), pipes)
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_of_this_user_who_does_not_know_the_name_is_sent_away(pipes):
    def intrude(names: list[bytes]) -> None:
        for name in names:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.connect(local_sockets.abstract(name))
                header = descriptors._HEADER.pack(0, b"?" * 32)
                rights = array.array("i", [sys.stderr.fileno()])
                stream.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    check_and_close(share_both(Meeting(intrude), pipes), pipes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_one_of_another_user_is_sent_away_although_it_knows_the_name(pipes):
    program = """
import os, socket, sys
sys.path.pop(0)
os.setresuid(65534, 65534, 65534)
for name in sys.argv[1:]:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(b"\\0umem-" + name.encode())
    stream.sendall(bytes([0, 0, 0, 0]) + name.encode())
"""

    def intrude(names: list[bytes]) -> None:
        command = [sys.executable, "-c", program, *(name.decode() for name in names)]
        subprocess.run(command, check=True, timeout=30)

    check_and_close(share_both(Meeting(intrude), pipes), pipes)


def test_a_peer_that_died_is_rank_lost(pipes):
    world = Meeting(alive=False).rank(0)
    world.exchange = lambda key, blob, timeout_s: [blob, b"nobody listens here".ljust(32)]
    with pytest.raises(RankLost) as caught:
        descriptors.share(world, "key", pipes[0], 5.0)
    assert caught.value.rank == 1


def test_a_host_that_is_two_containers_is_told_apart(pipes):
    """The peer lives and names the same host, but its sockets are not ours: it is in another network."""
    world = Meeting().rank(0)
    world.exchange = lambda key, blob, timeout_s: [blob, b"in another network".ljust(32)]
    with pytest.raises(WorldError, match="UMEM_HOST"):
        descriptors.share(world, "key", pipes[0], 5.0)


def test_descriptors_that_a_limit_cuts_off_are_an_error_and_none_leaks(pipes):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = [pipes[0][:1] * 40, pipes[1][:1] * 40]
    before = set(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 60, hard))  # 80 are to arrive
    try:
        results = share_both(Meeting(), many)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert any(isinstance(result, WorldError) and "ulimit -n" in str(result) for result in results), results
    for result in results:
        for fds in result.values() if isinstance(result, dict) else ():
            for fd in fds:
                os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before
