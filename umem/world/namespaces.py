"""The hosts of a `hosts` world on one machine: network namespaces joined by a bridge.

    namespace of host i:   lo, eth0 = 10.77.x.y/16 --veth--+
                                                           +-- bridge, in a namespace of its own
    namespace of host j:   lo, eth0 = 10.77.x.y/16 --veth--+

Namespaces have no names here: descriptors and processes hold them, so they vanish with the last process
of the world, however it ends. A short-lived child makes them, which leaves the launcher in its own
network and user and free of pyroute2's threads. An ordinary user gets them inside a user namespace,
which the ranks then enter first, keeping their user id.
"""

from __future__ import annotations

import array
import ctypes
import os
import pickle
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WorldError
from . import liveness

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000

INTERFACE = "eth0"
_BRIDGE = "bridge"
_PREFIX_BITS = 16
_HOSTS_PER_SUBNET = 250
_MAX_REPLY_BYTES = 1 << 16
_MAX_FDS = 253  # the kernel's SCM_MAX_FD
MAX_HOSTS = _MAX_FDS - 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class HostNamespace:
    """One host's network, and the user namespace that owns it (None where made by root)."""

    index: int
    network_fd: int
    user_fd: int | None

    @property
    def ip_address(self) -> str:
        """Address of the host's one interface."""
        return ip_address(self.index)

    def enter(self) -> None:
        """Move this process, which must have one thread, into the host."""
        if self.user_fd is not None:
            _setns(self.user_fd, _CLONE_NEWUSER)
            liveness.stay_inspectable()
        _setns(self.network_fd, _CLONE_NEWNET)


@dataclass(frozen=True)
class Network:
    """All hosts of a world. The bridge lives as long as the descriptors here are open."""

    hosts: tuple[HostNamespace, ...]
    bridge_fd: int

    @property
    def fds(self) -> list[int]:
        """Every descriptor that holds a namespace."""
        fds = [self.bridge_fd, *(host.network_fd for host in self.hosts)]
        user_fd = self.hosts[0].user_fd
        return fds if user_fd is None else [*fds, user_fd]

    def close(self) -> None:
        """Let go of the namespaces."""
        for fd in self.fds:
            os.close(fd)


def ip_address(index: int) -> str:
    """Address of host `index` on the bridge's network."""
    return f"10.77.{index // _HOSTS_PER_SUBNET}.{index % _HOSTS_PER_SUBNET + 1}"


def make_network(num_hosts: int) -> Network:
    """Make `num_hosts` namespaces joined by a bridge.

    Raises WorldError with the way out where this process may make none, or pyroute2 is missing.
    """
    if num_hosts > MAX_HOSTS:
        raise WorldError(f"{num_hosts} hosts: one machine holds at most {MAX_HOSTS} as network namespaces")
    parent_pid = os.getpid()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _child(theirs, parent_pid, num_hosts)
        theirs.close()
        try:
            problem, fds = _receive(ours)
        finally:
            os.waitpid(pid, 0)
    if problem is not None:
        raise WorldError(problem)
    bridge_fd, *network_fds = fds[: num_hosts + 1]
    user_fd = fds[num_hosts + 1] if len(fds) > num_hosts + 1 else None
    hosts = tuple(HostNamespace(index, fd, user_fd) for index, fd in enumerate(network_fds))
    return Network(hosts, bridge_fd)


def _receive(stream: socket.socket) -> tuple[str | None, list[int]]:
    data, ancillary, _, _ = stream.recvmsg(_MAX_REPLY_BYTES, socket.CMSG_SPACE(4 * _MAX_FDS))
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content)
    return (pickle.loads(data) if data else "the process that makes network namespaces died"), list(fds)


def _child(stream: socket.socket, parent_pid: int, num_hosts: int) -> None:
    """Make the namespaces, send them, end."""
    problem: str | None = None
    fds: list[int] = []
    try:
        liveness.die_with_parent(parent_pid)
        fds = _build(num_hosts)
    except ImportError:
        problem = "world 'hosts' on one machine needs pyroute2: pip install pyroute2"
    except PermissionError as error:
        problem = (
            f"world 'hosts' on one machine needs network namespaces, and this process may not make them"
            f" ({error}); run it as root, allow user namespaces (sysctl user.max_user_namespaces,"
            f" kernel.apparmor_restrict_unprivileged_userns=0; in a container: --cap-add SYS_ADMIN,NET_ADMIN"
            f" or --privileged), or use --world no-peer-access"
        )
    except Exception as error:  # noqa: BLE001 - whatever netlink says must cross to the parent
        problem = f"cannot make the network namespaces of world 'hosts': {type(error).__name__}: {error}"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    stream.sendmsg([pickle.dumps(problem)], rights)
    os._exit(0)


def _build(num_hosts: int) -> list[int]:
    """Descriptors of the bridge's namespace, the hosts', and the user namespace where there is one."""
    from pyroute2 import IPRoute

    user_fds: list[int] = []
    try:
        bridge_fd = _new_network()
    except PermissionError:
        user_fds.append(_enter_user_namespace())
        bridge_fd = _new_network()
    host_fds = [_new_network() for _ in range(num_hosts)]
    _setns(bridge_fd, _CLONE_NEWNET)
    with IPRoute() as route:
        _up(route, "lo")
        route.link("add", ifname=_BRIDGE, kind="bridge")
        bridge = _up(route, _BRIDGE)
        for index, fd in enumerate(host_fds):
            port = f"host{index}"
            route.link("add", ifname=port, kind="veth", peer={"ifname": INTERFACE, "net_ns_fd": fd})
            route.link("set", index=route.link_lookup(ifname=port)[0], master=bridge)
            _up(route, port)
    for index, fd in enumerate(host_fds):
        _setns(fd, _CLONE_NEWNET)
        with IPRoute() as route:
            _up(route, "lo")
            interface = route.link_lookup(ifname=INTERFACE)[0]
            route.addr("add", index=interface, address=ip_address(index), prefixlen=_PREFIX_BITS)
            _up(route, INTERFACE)
    return [bridge_fd, *host_fds, *user_fds]


def _up(route: Any, name: str) -> int:
    """Switch an interface on; returns its index."""
    index: int = route.link_lookup(ifname=name)[0]
    route.link("set", index=index, state="up")
    return index


def _new_network() -> int:
    _checked(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter_user_namespace() -> int:
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    liveness.stay_inspectable()
    # Each id maps to itself: the rank is still this user, for itself and on sockets.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _setns(fd: int, kind: int) -> None:
    _checked(_libc.setns(fd, kind), "setns")


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
