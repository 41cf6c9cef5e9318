"""UNIX sockets in the kernel's abstract namespace: names without files, so nothing is left behind.

An abstract name has no file mode: any user of the machine can find and use it. So each side checks the user
of the other.
"""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


def abstract(name: bytes) -> bytes:
    """The address of a name of umem's."""
    return b"\0umem-" + name


def is_own_user(stream: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user."""
    _, uid, _ = _credentials(stream)
    return uid == os.geteuid()


def peer_pid(stream: socket.socket) -> int:
    """The process at the other end; 0 where this pid namespace does not see it."""
    pid, _, _ = _credentials(stream)
    return pid


def _credentials(stream: socket.socket) -> tuple[int, int, int]:
    raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid
