"""Where memory comes from and how it gets an address: one small interface, and the devices that fulfil it.

`host` and `cuda` fulfil `Device`. Nothing here knows of ranks or worlds: umem/memory/segment.py decides what is
mapped where, this package does it.
"""

from __future__ import annotations

from . import host
from .base import Device, GpuDevice

HOST: Device = host

__all__ = ["HOST", "Device", "GpuDevice", "host"]
