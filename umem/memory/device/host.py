"""Host memory: memfds, mapped at the address that the world has agreed on.

A memfd has no name in any file system, so nothing is left after a crash, and /dev/shm's size does not
limit it; memory and the container's limit do. libc is called directly because Python's `mmap` object
cannot map at a given address and unmaps behind our back when it is collected. All calls here are made at
start-up or growth, never on a measured path.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
from pathlib import Path

import numpy as np

from ...errors import AddressSpaceFull, AlignmentError, ConfigError, SegmentTooLarge, UmemError, WorldError
from ...limits import available_memory_bytes
from ...units import format_size

NAME = "host"
granularity = mmap.PAGESIZE
maps_at_offset = True

_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000  # Linux 4.17; older kernels take the address as a hint
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MAP_FAILED = ctypes.c_void_p(-1).value
_SHMEM_HUGE = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def reserve(address: int, num_bytes: int) -> int:
    """Set aside [address, address + num_bytes): an access faults, and nothing else is ever placed there.

    Costs no memory. Returns `address`. Raises WorldError where part of the range is in use (a second
    space in this process, a library at this address), AddressSpaceFull where `ulimit -v` forbids it.
    """
    _check_range(address, num_bytes)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
    try:
        got = _mmap(address, num_bytes, _PROT_NONE, flags, -1, 0)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise _range_in_use(address, num_bytes) from error
        if error.errno == errno.ENOMEM:
            limit, _ = resource.getrlimit(resource.RLIMIT_AS)
            stated = "unlimited" if limit == resource.RLIM_INFINITY else format_size(limit)
            raise AddressSpaceFull(
                f"cannot reserve {format_size(num_bytes)} of addresses at {address:#x}; the limit on virtual"
                f" memory is {stated}: raise it (ulimit -v unlimited) or use smaller segments"
            ) from error
        raise _failed("reserve", address, num_bytes, error) from error
    if got != address:
        _libc.munmap(got, num_bytes)
        raise _range_in_use(address, num_bytes)
    return address


def create(num_bytes: int, name: str) -> int:
    """A new memfd of `num_bytes` zeroes, closed on exec; `name` shows in /proc/PID/maps.

    It can grow and never shrinks, so that no peer's mapping can lose its memory. Raises SegmentTooLarge
    where memory, the container or `ulimit -f` cannot back it. The caller closes the descriptor.
    """
    _check_range(0, num_bytes)
    check_fits(num_bytes)
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, num_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError as error:
        os.close(fd)
        raise _failed("create", 0, num_bytes, error) from error
    return fd


def grow(fd: int, num_bytes: int) -> None:
    """Make the memory behind `fd` `num_bytes` long; its contents stay, mappings are not extended.

    Raises ConfigError for a size below the present one, SegmentTooLarge where nothing can back the rest.
    """
    _check_range(0, num_bytes)
    present = os.fstat(fd).st_size
    if num_bytes < present:
        raise ConfigError(f"a segment of {format_size(present)} cannot shrink to {format_size(num_bytes)}")
    check_fits(num_bytes - present)
    os.ftruncate(fd, num_bytes)


def check_fits(num_bytes: int) -> None:
    """Raise SegmentTooLarge where `num_bytes` of new memory are more than this process can get.

    A launcher asks once for all ranks of a host; a rank alone cannot know what the others will touch.
    """
    file_limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_limit != resource.RLIM_INFINITY and num_bytes > file_limit:
        # Checked here because the kernel answers with SIGXFSZ, which would end the process.
        raise SegmentTooLarge(
            f"a segment of {format_size(num_bytes)} exceeds this shell's file size limit of"
            f" {format_size(file_limit)}; use ulimit -f unlimited"
        )
    available = available_memory_bytes()
    if num_bytes > available:
        raise SegmentTooLarge(
            f"segments of {format_size(num_bytes)} were asked for and {format_size(available)} of memory are"
            " available to this process; use smaller segments (--segment, UMEM_SEGMENT) or fewer ranks"
        )


def map(fd: int, address: int, num_bytes: int, offset: int = 0) -> None:
    """Put [offset, offset + num_bytes) of `fd` at `address`, shared, readable and writable.

    The range must be reserved: what stands there is replaced. Raises ConfigError where the memory is
    shorter than that (an access behind its end would be a SIGBUS), AddressSpaceFull where the process
    has as many mappings as the kernel allows.
    """
    _check_range(address, num_bytes)
    _check_range(offset, num_bytes)
    present = os.fstat(fd).st_size
    if offset + num_bytes > present:
        raise ConfigError(
            f"cannot map {format_size(num_bytes)} at offset {offset:#x} of memory that has"
            f" {format_size(present)}; grow it first"
        )
    try:
        _mmap(address, num_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, offset)
    except OSError as error:
        raise _failed("map", address, num_bytes, error) from error


def unmap_to_reserved(address: int, num_bytes: int) -> None:
    """Take the memory at `address` away and keep the range reserved: a stray access faults.

    One step (a fixed mapping over the old one), so no other thread's allocation can slip in between.
    """
    _check_range(address, num_bytes)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    try:
        _mmap(address, num_bytes, _PROT_NONE, flags, -1, 0)
    except OSError as error:
        raise _failed("unmap", address, num_bytes, error) from error


def release_range(address: int, num_bytes: int) -> None:
    """Give a reserved range back to the process, with all that is still mapped in it."""
    _check_range(address, num_bytes)
    if _libc.munmap(address, num_bytes) != 0:
        raise _failed("release", address, num_bytes, _last_error())


def prefault(address: int, num_bytes: int) -> None:
    """Back every page of a mapped range with memory now, without changing what it holds.

    Raises SegmentTooLarge where the memory runs out, in place of a later SIGBUS. Threads and peers may
    use the range meanwhile.
    """
    _check_range(address, num_bytes)
    if _libc.madvise(address, num_bytes, _MADV_POPULATE_WRITE) == 0:
        return
    error = _last_error()
    if error.errno != errno.EINVAL or _kernel_populates():
        raise _failed("prefault", address, num_bytes, error)
    # Before Linux 5.14: a read is enough, it allocates the page of a shared mapping and changes nothing.
    for page in range(address, address + num_bytes, granularity):
        ctypes.c_char.from_address(page).value  # noqa: B018


def advise_huge(address: int, num_bytes: int) -> bool:
    """Ask for huge pages behind a mapped range; call it before the first touch.

    Returns whether the kernel will try: False where shared memory has them switched off
    (/sys/kernel/mm/transparent_hugepage/shmem_enabled is `never` or `deny`).
    """
    _check_range(address, num_bytes)
    if not huge_pages_possible():
        return False
    return _libc.madvise(address, num_bytes, _MADV_HUGEPAGE) == 0


def huge_pages_possible() -> bool:
    """Whether this kernel backs shared memory with huge pages when asked."""
    if not _SHMEM_HUGE.exists():
        return False
    setting = _SHMEM_HUGE.read_text()
    return not ("[never]" in setting or "[deny]" in setting)


def pointer(address: int) -> int:
    """This process's pointer to `address`: the same number."""
    return address


def address(pointer: int) -> int:
    """The address of the memory at `pointer`: the same number."""
    return pointer


def view(address: int, num_bytes: int) -> np.ndarray:
    """The bytes [address, address + num_bytes) as a writable uint8 array, without a copy.

    It does not keep the mapping alive: the caller has mapped the range and unmaps it after the last use.
    """
    return np.asarray(_Bytes(address, num_bytes))


class _Bytes:
    """Memory as NumPy's array interface sees it; ctypes would make, and keep, a type for every length."""

    def __init__(self, address: int, num_bytes: int):
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (num_bytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _mmap(address: int, num_bytes: int, protection: int, flags: int, fd: int, offset: int) -> int:
    got = _libc.mmap(address, num_bytes, protection, flags, fd, offset)
    if got is None or got == _MAP_FAILED:
        raise _last_error()
    return int(got)


def _kernel_populates() -> bool:
    """Whether this kernel knows MADV_POPULATE_WRITE: EINVAL alone could also mean a range without memory."""
    with mmap.mmap(-1, granularity) as page:
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return _libc.madvise(start, granularity, _MADV_POPULATE_WRITE) == 0


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _check_range(start: int, num_bytes: int) -> None:
    if start % granularity:
        raise AlignmentError(start, granularity)
    if num_bytes <= 0 or num_bytes % granularity:
        raise ConfigError(f"{num_bytes} bytes are not a positive multiple of the page size {granularity}")


def _range_in_use(address: int, num_bytes: int) -> WorldError:
    return WorldError(
        f"addresses {address:#x} to {address + num_bytes:#x} are in use in this process: close the other"
        " space first (a process joins one world at a time)"
    )


def _failed(action: str, address: int, num_bytes: int, error: OSError) -> UmemError:
    """The typed error for a refused call, with the limit that most likely refused it."""
    what = f"cannot {action} {format_size(num_bytes)} at {address:#x}: {error.strerror}"
    if action == "map" and error.errno == errno.ENOMEM:
        limit = _MAX_MAP_COUNT.read_text().strip()
        return AddressSpaceFull(f"{what}; a process may have {limit} mappings: raise vm.max_map_count")
    if error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EFAULT):
        return SegmentTooLarge(f"{what}; {format_size(available_memory_bytes())} of memory are available")
    return WorldError(what)
