"""What ranks of the bare worlds in test_world_*.py do. Without pytest: each rank imports this file."""

from __future__ import annotations

import os
import socket
import time

from umem.errors import RankLost, WaitTimeout, WorldError
from umem.world import join


def raised(kind, call, *args, **options):
    """The exception of type `kind` that the call raises."""
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} from {call.__name__}{args}")


def tell_everything(world):
    """One rank's whole view, from as many promises as one world can show."""
    blobs = world.exchange("blobs", bytes([world.rank]) * (world.rank + 1))
    again = world.exchange("blobs", b"again %d" % world.rank)  # the same key, a second time
    if world.rank == world.num_ranks - 1:
        world.set("published", b"x" * 1_000_000)
    published = world.get("published")
    read_end, write_end = os.pipe()
    os.write(write_end, b"%d" % world.rank)
    shared = world.share_fds("pipes", [read_end, write_end])
    seen = {peer: sorted(os.fstat(fd).st_ino for fd in fds) for peer, fds in shared.items()}
    view = {
        "rank": world.rank,
        "blobs": blobs,
        "again": again,
        "published": len(published),
        "pid": os.getpid(),
        "pids": world.pids,
        "hosts": world.hosts,
        "may_map": [world.may_map(rank) for rank in range(world.num_ranks)],
        "own_pipe": os.fstat(read_end).st_ino,
        "seen_pipes": {peer: inodes[0] for peer, inodes in seen.items()},
        "ip_addresses": world.ip_addresses,
        "ip_address": world.ip_address,
        "network": os.stat("/proc/self/ns/net").st_ino,
        "interface": world.interface,
        "ucx": world.ucx_environment,
        "alive": [world.is_alive(rank) for rank in range(world.num_ranks)],
        "affinity": os.sched_getaffinity(0),
        "core": world.core,
        "environment": (os.environ["UMEM_RANK"], os.environ["UMEM_NUM_RANKS"]),
    }
    world.exchange("all have looked", b"")
    return view


def talk_over_tcp(world):
    """Every rank listens at its address; each connects to each."""
    with socket.create_server((world.ip_address, 0)) as listener:
        ports = [int(blob) for blob in world.exchange("ports", b"%d" % listener.getsockname()[1])]
        heard = []
        for peer in range(world.num_ranks):
            with socket.create_connection((world.ip_addresses[peer], ports[peer]), timeout=10) as stream:
                stream.sendall(bytes([world.rank]))
        for _ in range(world.num_ranks):
            stream, _ = listener.accept()
            with stream:
                heard.append(stream.recv(1)[0])
        return sorted(heard)


def wait_for_one_that_never_comes(world):
    if world.rank > 0:
        error = raised(WaitTimeout, world.exchange, "never", b"", timeout_s=0.2)
        world.set(f"rank {world.rank} has waited", str(error).encode())
        return
    for rank in range(1, world.num_ranks):  # alive, and never takes part
        text = world.get(f"rank {rank} has waited").decode()
        assert text == "exchange 'never, round 1' waited 0.2 s for rank 0", text


def wait_for_a_key_that_nobody_sets(world):
    assert "nothing-here" in str(raised(WaitTimeout, world.get, "nothing-here", timeout_s=0.05))
    return world.exchange("after", b"still works")


def die_while_others_wait(world, how):
    if world.rank == 1:
        os.kill(os.getpid(), 9) if how == "killed" else os._exit(0)
    started = time.monotonic()
    error = raised(RankLost, world.exchange, "needs all", b"")
    raised(RankLost, world.exchange, "needs all, later", b"")
    assert not world.is_alive(1)
    return error.rank, str(error), time.monotonic() - started < 10


def join_twice(world):
    """What a second join says: inside the world, after leaving it, and in a fork of the rank."""
    told = [type(raised(WorldError, join)).__name__]
    world.set("left behind", b"x")
    world.leave()
    with join() as again:
        raised(WaitTimeout, again.get, "left behind", timeout_s=0.05)
        assert again.exchange("key", b"%d" % again.rank)[again.rank] == b"%d" % again.rank
        told.append("joined again")
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write_end, type(raised(WorldError, join)).__name__.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        told.append(os.read(read_end, 100).decode())
        again.exchange("end", b"")
    return told


def count_sockets(world):
    """How many sockets this rank has open while all ranks are there."""
    world.exchange("all are here", b"")
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # of the list itself
            continue
    world.exchange("all have counted", b"")
    return sum(link.startswith("socket:") for link in links)
