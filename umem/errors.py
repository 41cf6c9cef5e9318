"""Every error that a user of umem can cause or meet.

Each carries the values that led to it as attributes and names the way out in its text. ``assert``
is for our own bugs; these are for the world's.
"""

from __future__ import annotations


class UmemError(Exception):
    """Base of every error that umem raises on purpose."""


class ConfigError(UmemError, ValueError):
    """A setting, option or argument has a value that cannot be used."""


class UnknownName(ConfigError):
    """A name that is not one of the known ones: case, semantics, dtype, home, peer, world kind."""

    def __init__(self, what: str, name: object, known: list[str] | tuple[str, ...]):
        self.what, self.name, self.known = what, name, tuple(known)
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(self.known)}")


class AddressError(UmemError, ValueError):
    """An address that lies in no segment, or a range that leaves its segment."""


class AlignmentError(AddressError):
    """An address that is not a multiple of what the access needs."""

    def __init__(self, address: int, alignment: int, way_out: str = ""):
        self.address, self.alignment = address, alignment
        hint = f"; {way_out}" if way_out else ""
        super().__init__(f"address {address:#x} is not {alignment}-byte aligned{hint}")


class NotMappable(UmemError):
    """A raw pointer, view or kernel was asked for where the home's memory cannot be mapped."""


class AddressSpaceFull(UmemError):
    """The reserved address range has no room for another segment."""


class OutOfMemory(UmemError, MemoryError):
    """A segment has no room for an allocation; the text says what is free where."""


class SegmentTooLarge(ConfigError):
    """A segment larger than the memory, the container's limit or /dev/shm can back."""


class WaitTimeout(UmemError, TimeoutError):
    """A wait passed its deadline while its peer was alive."""


class RankLost(UmemError):
    """A rank is confirmed dead and what was asked depends on it."""

    def __init__(self, rank: int, detail: str = ""):
        self.rank = rank
        super().__init__(f"rank {rank} is dead" + (f": {detail}" if detail else ""))


class WorldError(UmemError, RuntimeError):
    """A world could not be made, joined or left as asked."""


class LaunchError(WorldError):
    """A rank failed under `umem run` or `umem.launch`: carries the rank, its exit code, its error."""

    def __init__(self, rank: int, exit_code: int, detail: str = ""):
        self.rank, self.exit_code, self.detail = rank, exit_code, detail
        super().__init__(f"rank {rank} failed with exit code {exit_code}" + (f": {detail}" if detail else ""))


class PortInUse(WorldError):
    """A port that the user gave is taken by another program."""


class FabricError(UmemError):
    """A transport failed: the text carries the call, the status and the peer."""


class FabricMissing(FabricError):
    """A transport was asked for that is not installed or is too old; the text has the line that fixes it."""


class HandlerError(UmemError):
    """An agent's handler refused a request or none is registered for its operation."""


class Interrupted(UmemError):
    """A compiled wait was told to stop because its space is closing."""


class Waived(UmemError):
    """A case or measurement cannot run on this machine; the text is the reason."""
