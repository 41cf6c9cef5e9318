"""Every error that a user of umem can cause or meet.

Each carries the values that led to it as attributes and names the way out in its text. ``assert``
is for our own bugs; these are for the world's.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Any


class UmemError(Exception):
    """Base of every error that umem raises on purpose. Pickles whole: type, text, attributes, notes and cause."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own form would call a subclass's constructor with the finished text, and lose the cause.
        return _restore, (type(self), self.args, self.__dict__, _as_it_can_travel(self.__cause__))


def _restore(
    kind: type[UmemError], args: tuple[Any, ...], attributes: dict[str, Any], cause: BaseException | None
) -> UmemError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    error.__cause__ = cause
    return error


def _as_it_can_travel(error: BaseException | None) -> BaseException | None:
    """The error itself where it survives pickling, else a UmemError with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a user's exception may raise anything while it is pickled
        return UmemError("".join(traceback.format_exception_only(error)).rstrip())


class ConfigError(UmemError, ValueError):
    """A setting, option or argument has a value that cannot be used."""


class ArgumentTypeError(ConfigError, TypeError):
    """An argument or value of a type that is not converted: a float for a whole number, an object dtype."""


class ArgumentRangeError(ConfigError, OverflowError):
    """A number that does not fit the element or field that it is stored into."""


class ProtocolError(ConfigError):
    """A coherence protocol that cannot be loaded or is not right: no table, no row, a contradiction, a bug."""

    def __init__(self, protocol: str, fault: str, key: object = None):
        self.protocol, self.fault, self.key = protocol, fault, key
        super().__init__(f"protocol {protocol}: {fault}")


class UnknownName(ConfigError):
    """A name that is not one of the known ones: case, semantics, dtype, home, peer, world kind."""

    def __init__(self, what: str, name: object, known: list[str] | tuple[str, ...]):
        self.what, self.name, self.known = what, name, tuple(known)
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(self.known)}")


class LitmusSyntax(ConfigError):
    """A litmus test that cannot be read: the file, the line, the syntax expected there and the text found."""

    def __init__(self, file: str, line: int, expected: str, found: str):
        self.file, self.line, self.expected, self.found = file, line, expected, found
        super().__init__(f"{file}:{line}: expected {expected}; found {found!r}")


class AddressError(UmemError, ValueError):
    """An address that lies in no segment, or a range that leaves its segment."""


class AlignmentError(AddressError):
    """An address that is not a multiple of the alignment that the access needs."""

    def __init__(self, address: int, alignment: int, way_out: str = ""):
        self.address, self.alignment = address, alignment
        hint = f"; {way_out}" if way_out else ""
        super().__init__(f"address {address:#x} is not {alignment}-byte aligned{hint}")


class NotAllocated(AddressError):
    """No allocation begins at an address that was given to free, hold or look one up."""


class DoubleFree(NotAllocated):
    """An allocation that has been freed before."""


class NotMappable(UmemError):
    """A raw pointer, view or kernel was asked for where the home's memory cannot be mapped."""


class AddressSpaceFull(UmemError):
    """The reserved address range has no room for another segment."""


class OutOfMemory(MemoryError, UmemError):  # in this order: unpickling makes it by the first base's __new__
    """A segment has no room for an allocation; the text lists the free memory of each home."""


class CapacityExceeded(UmemError):
    """A dispatch would bring a member of a team more rows than it was made to take."""

    def __init__(self, rank: int, num_rows: int, max_rows: int):
        self.rank, self.num_rows, self.max_rows = rank, num_rows, max_rows
        super().__init__(
            f"rank {rank} would get {num_rows} rows, and takes {max_rows}: make the exchange with a larger max_rows, or"
            " dispatch fewer tokens at a time"
        )


class SegmentTooLarge(ConfigError):
    """A segment larger than the memory, the container's limit or /dev/shm can back."""


class WaitTimeout(UmemError, TimeoutError):
    """A wait passed its deadline while its peer was alive."""


class RankLost(UmemError):
    """A rank that an operation depends on is confirmed dead, or an error has made it leave (`reason`)."""

    def __init__(self, rank: int, detail: str = "", reason: str = ""):
        self.rank, self.reason = rank, reason
        text = f"rank {rank} has left its world by {reason}" if reason else f"rank {rank} is dead"
        super().__init__(text + (f": {detail}" if detail else ""))


class CheckpointError(UmemError, ValueError):
    """A checkpoint is not whole, or is that of another table."""


class CollectiveMismatch(UmemError):
    """Two members of a team called different collectives, or one with other sizes, types, operations or roots."""

    def __init__(self, rank: int, called: str, other: int, other_called: str):
        self.rank, self.called, self.other, self.other_called = rank, called, other, other_called
        super().__init__(
            f"rank {rank} called {called}, rank {other} called {other_called}: all members of a team call the same,"
            " in the same order"
        )


class WorldError(UmemError, RuntimeError):
    """A world could not be made, joined or left as asked."""


class ForkedRank(WorldError):
    """A process that a rank forked used the rank's space, heap, agent or world; `pid` is the rank's."""

    def __init__(self, rank: int, pid: int):
        self.rank, self.pid = rank, pid
        super().__init__(
            f"this process is a fork of rank {rank}, and the space is that of process {pid}; here only views and"
            " `Array.numpy()` of mapped memory can be used, which is shared with the rank: hand results to it by a"
            " queue or a pipe"
        )


class LaunchError(WorldError):
    """A rank failed under `umem run` or `umem.launch`: carries the rank, its exit code, its error."""

    def __init__(self, rank: int, exit_code: int, detail: str = ""):
        self.rank, self.exit_code, self.detail = rank, exit_code, detail
        super().__init__(f"rank {rank} failed with exit code {exit_code}" + (f": {detail}" if detail else ""))


class PortInUse(WorldError):
    """A port that the user gave is taken by another program."""


class DeviceError(UmemError):
    """A device's driver refused a call; the text carries the call, its status and the details of the request."""

    def __init__(self, call: str, status: str, detail: str = ""):
        self.call, self.status = call, status
        super().__init__(f"{call} returned {status}" + (f": {detail}" if detail else ""))


class DeviceMissing(UmemError):
    """A device was asked for that this machine does not have; the text has the way out."""


class DeviceTooOld(DeviceMissing):
    """A kernel was to run on a GPU that is older than all that it was compiled for."""

    def __init__(self, kernel: str, capability: tuple[int, int], oldest: tuple[int, int]):
        self.kernel, self.capability, self.oldest = kernel, capability, oldest
        has, needs = (".".join(map(str, numbers)) for numbers in (capability, oldest))
        super().__init__(
            f"kernel {kernel} needs a GPU of compute capability {needs} or newer, this one has {has}: use a newer"
            " GPU, or let a rank without a GPU do the work"
        )


class DriverTooOld(DeviceError):
    """A GPU's driver does not know the code of a kernel, because a newer CUDA compiled it."""


class KernelRefused(UmemError):
    """A kernel that does not compile for CUDA; carries its name, and `reason`, the compiler's words."""

    def __init__(self, kernel: str, reason: str):
        self.kernel, self.reason = kernel, reason
        super().__init__(
            f"kernel {kernel} does not compile for CUDA: {reason.strip()}\nWhat a kernel for CUDA may call is in"
            " docs/reference.md, intrinsics whose targets have cuda; values are numbers, memory is its address"
        )


class FabricError(UmemError):
    """A transport failed: the text carries the call, the status and the peer."""


class FabricMissing(FabricError):
    """A transport was asked for that is not installed or is too old; the text has the line that fixes it."""


class HandlerError(UmemError):
    """The handler of another rank's agent refused a request; `status` is its code (kernels/status.py)."""

    def __init__(self, rank: int, operation: str, status: int, reason: str):
        self.rank, self.operation, self.status = rank, operation, status
        super().__init__(f"{operation} was refused by the agent of rank {rank}: {reason}")


class UnknownOperation(HandlerError):
    """No handler is registered for the operation at the rank that got the request."""


class LinePoisoned(UmemError):
    """The only whole copy of a line was lost with a dead rank; `address` is the access's, None if not known."""

    def __init__(self, address: int | None):
        self.address = address
        where = "a line" if address is None else f"the line at {address:#x}"
        super().__init__(
            f"{where} was lost with a rank that died; `space.cache.reset(address)` makes it usable"
            " again, with what last came home"
        )


class Interrupted(UmemError):
    """A compiled wait was told to stop because its space is closing."""


class UnsupportedPython(UmemError, ImportError):
    """umem was imported by a free-threaded Python."""

    def __init__(self, executable: str):
        self.executable = executable
        super().__init__(
            f"umem does not run on a free-threaded Python ({executable}): what its threads share is safe only where"
            " a GIL lets one of them run Python at a time. Use the ordinary build of Python 3.11, 3.12 or 3.13"
        )


class TorchMissing(UmemError, ImportError):
    """umem.torch, or torch's view of an array, was used where torch is not installed."""


class CupyMissing(UmemError, ImportError):
    """CuPy's view of an array was asked for where CuPy is not installed."""


class AllocatorRefused(UmemError):
    """torch's allocator could not be replaced in this process; the text has the attempts and the way out."""


class Waived(UmemError):
    """A case or measurement cannot run on this machine; the text is the reason."""


class ModelError(UmemError):
    """A kernel cannot be model-checked as it is: it uses a call without a model, or a local that cannot be hashed."""
