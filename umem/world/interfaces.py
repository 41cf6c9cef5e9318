"""Network interfaces of this machine."""

from __future__ import annotations

import fcntl
import socket
import struct
import warnings

from ..errors import ConfigError, UnknownName
from .spec import LOOPBACK

_SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s24s")  # struct ifreq: name, then a union that starts with a sockaddr_in here
_ADDRESS_OFFSET = 4  # family and port come first in a sockaddr_in


def choose(network: str | None) -> tuple[str, str]:
    """The interface that a rank's traffic may use and its address: loopback unless `network` opts in.

    Opting in warns: any process that reaches the address can read and write the ranks' memory.
    """
    interface = network or LOOPBACK
    ip_address = ip_address_of(interface)
    if interface != LOOPBACK:
        text = f"umem traffic goes over {interface} ({ip_address}): it is neither authenticated nor encrypted"
        warnings.warn(text, stacklevel=2)
    return interface, ip_address


def ip_address_of(interface: str) -> str:
    """IPv4 address of `interface` in this process's network.

    Raises UnknownName where there is no such interface, ConfigError where it has no address.
    """
    if interface == LOOPBACK:
        return "127.0.0.1"
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise UnknownName("network interface", interface, names)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, _IFREQ.pack(interface.encode(), b""))
        except OSError:
            raise ConfigError(f"network interface {interface!r} has no IPv4 address") from None
    _, content = _IFREQ.unpack(answer)
    return socket.inet_ntoa(content[_ADDRESS_OFFSET : _ADDRESS_OFFSET + 4])
