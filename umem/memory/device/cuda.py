"""GPU memory through CUDA's virtual memory management: created, shared as a descriptor, mapped, translated.

Every rank maps its own GPU's memory and its peers', so that a kernel dereferences both. The exported
descriptor is the memory's one handle here: a reference of its own (CUDA driver API, cuMemRelease), so the
driver's handles live only inside `create` and `map`.

Evidence: this sequence of calls runs in tests on a driver that executes kernels on the CPU (tests/cuda/driver),
between processes. It has not run on a GPU by the authors; scripts/gpu-check does that where there is one.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

from ...errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    DeviceError,
    DeviceMissing,
    SegmentTooLarge,
    WorldError,
)
from ...units import format_size
from . import cuda_driver


@dataclass(frozen=True)
class Properties:
    """A GPU's properties, and whether its memory can be shared as umem needs."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    shares_memory: bool  # virtual memory management with POSIX descriptors


@dataclass(frozen=True)
class Peer:
    """How one GPU reaches another's memory."""

    ordinal: int
    can_access: bool  # loads and stores
    native_atomics: (
        bool  # without it (PCIe), system-scope atomics on peer memory are not atomic: use messages
    )


@dataclass
class _Range:
    """A reserved range: where umem's addresses stand in this process, and how many bytes each mapping has."""

    address: int
    pointer: int
    num_bytes: int
    mapped: dict[int, int]

    def holds(self, address: int, num_bytes: int = 1) -> bool:
        return self.address <= address and address + num_bytes <= self.address + self.num_bytes


class CudaDevice:
    """One GPU as a `Device`. Not shared between threads while ranges are made or given back.

    Raises DeviceMissing where there is no such GPU or it cannot share memory.
    """

    maps_at_offset = False  # cuMemMap: "offset: currently must be zero"

    def __init__(self, ordinal: int = 0):
        self.driver = cuda_driver.load()
        self.ordinal = ordinal
        self.NAME = f"cuda:{ordinal}"
        count = num_devices()
        if not 0 <= ordinal < count:
            raise DeviceMissing(
                f"there is no {self.NAME}; this machine has {count} CUDA devices, counted from 0"
            )
        self._device = self.driver.call("cuDeviceGet", ordinal)
        self.properties = self._read_properties()
        if not self.properties.shares_memory:
            raise DeviceMissing(
                f"{self.NAME} ({self.properties.name}) cannot share memory between processes: it lacks"
                " virtual memory management with POSIX descriptors (Linux, compute capability 6.0 or newer)"
            )
        constants = self.driver.constants
        self._descriptor_type = constants.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        self._allocation = constants.CUmemAllocationProp()
        self._allocation.type = constants.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._allocation.location = self._location()
        self._allocation.requestedHandleTypes = self._descriptor_type
        minimum = constants.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granularity = int(self.driver.call("cuMemGetAllocationGranularity", self._allocation, minimum))
        self.context = self.driver.call("cuDevicePrimaryCtxRetain", self._device)
        self._ranges: list[_Range] = []  # in the order of their addresses
        self._adopted: list[int] = []

    def has(self, attribute: str) -> bool:
        """Whether the device has what the driver calls CU_DEVICE_ATTRIBUTE_`attribute`."""
        wanted = getattr(self.driver.constants.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{attribute}")
        return bool(self.driver.call("cuDeviceGetAttribute", wanted, self._device))

    def reserve(self, address: int, num_bytes: int) -> int:
        """Set aside addresses, at `address` if the driver agrees, and return where they stand here.

        Raises WorldError where the range overlaps one that is reserved already.
        """
        self._check(address, num_bytes)
        for known in self._ranges:
            if address < known.address + known.num_bytes and known.address < address + num_bytes:
                raise WorldError(
                    f"addresses {address:#x} to {address + num_bytes:#x} are in use on {self.NAME}: close the"
                    " other space first (a process joins one world at a time)"
                )
        pointer = int(
            self.driver.call(
                "cuMemAddressReserve",
                num_bytes,
                self.granularity,
                address,
                0,
                detail=f"{format_size(num_bytes)} of addresses",
            )
        )
        bisect.insort(self._ranges, _Range(address, pointer, num_bytes, {}), key=lambda known: known.address)
        return pointer

    def create(self, num_bytes: int, name: str) -> int:
        """New memory on this GPU as a descriptor that any process of this machine can map.

        `name` is not visible anywhere (CUDA names no memory). Raises SegmentTooLarge where the GPU has not
        that much left. The caller closes the descriptor.
        """
        self._check(0, num_bytes)
        wanted = f"{format_size(num_bytes)} for {name} on {self.NAME} ({format_size(self.free_bytes())} free)"
        handle = self.driver.call("cuMemCreate", num_bytes, self._allocation, 0, detail=wanted)
        try:
            return int(
                self.driver.call(
                    "cuMemExportToShareableHandle", handle, self._descriptor_type, 0, detail=wanted
                )
            )
        finally:
            self.driver.call("cuMemRelease", handle)

    def map(self, fd: int, address: int, num_bytes: int, offset: int = 0) -> None:
        """Put the memory of `fd` at `address`, which must be reserved and free, and let this GPU use it.

        Raises ConfigError for an offset (CUDA maps an allocation from its start), DeviceError where the
        memory is on a GPU that this one cannot reach.
        """
        self._check(address, num_bytes)
        if offset:
            raise ConfigError(
                f"{self.NAME} maps memory from its start, not at offset {offset:#x}; create it in pieces"
            )
        home = self._range_of(address, num_bytes)
        pointer = home.pointer + (address - home.address)
        # cuda.bindings takes the descriptor where C takes a void *.
        handle = self.driver.call("cuMemImportFromShareableHandle", fd, self._descriptor_type)
        try:
            self.driver.call("cuMemMap", pointer, num_bytes, 0, handle, 0, detail=f"at {address:#x}")
        finally:
            self.driver.call("cuMemRelease", handle)
        home.mapped[address] = num_bytes
        access = self.driver.constants.CUmemAccessDesc()
        access.location = self._location()
        access.flags = self.driver.constants.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        try:
            self.driver.call("cuMemSetAccess", pointer, num_bytes, [access], 1, detail=f"for {self.NAME}")
        except BaseException:
            self._unmap_piece(home, address)
            raise

    def unmap_to_reserved(self, address: int, num_bytes: int) -> None:
        """Take away all memory mapped in the range; the addresses stay reserved.

        Kernels that use it must have ended (`synchronize`). Raises AddressError where a mapping lies only
        partly in the range: CUDA unmaps whole mappings.
        """
        self._check(address, num_bytes)
        home = self._range_of(address, num_bytes)
        end = address + num_bytes
        inside = [start for start in home.mapped if address <= start < end]
        for start, size in home.mapped.items():
            if start < end and address < start + size and not (address <= start and start + size <= end):
                raise AddressError(
                    f"the mapping {start:#x} to {start + size:#x} lies partly in {address:#x} to {end:#x}"
                )
        for start in inside:
            self._unmap_piece(home, start)

    def release_range(self, address: int, num_bytes: int) -> None:
        """Give back exactly one range that `reserve` returned, with all that is still mapped in it."""
        home = self._range_of(address, num_bytes)
        if (home.address, home.num_bytes) != (address, num_bytes):
            raise AddressError(
                f"{address:#x} is not the start of a reserved range of {format_size(num_bytes)}"
            )
        self.unmap_to_reserved(address, num_bytes)
        self.driver.call("cuMemAddressFree", home.pointer, home.num_bytes)
        self._ranges.remove(home)

    def pointer(self, address: int) -> int:
        """The pointer to `address` for kernels on this GPU. Raises AddressError outside reserved ranges."""
        home = self._range_of(address)
        return home.pointer + (address - home.address)

    def address(self, pointer: int) -> int:
        """The address of the memory at `pointer`. Raises AddressError outside reserved ranges."""
        for known in self._ranges:
            if known.pointer <= pointer < known.pointer + known.num_bytes:
                return known.address + (pointer - known.pointer)
        raise AddressError(f"pointer {pointer:#x} lies in no range of {self.NAME}")

    def adopt(self, pointer: int, num_bytes: int) -> bool:
        """Let kernels on this GPU, and copies, use mapped host memory at its own address, until `close`.

        It pins the memory, so all of it is backed. False where the driver refuses to, or would show the memory to
        kernels at another address (cuMemHostRegister of shared mappings; CUDA programming guide, Unified Virtual
        Address Space).
        """
        self.make_current()
        constants = self.driver.constants
        flags = constants.CU_MEMHOSTREGISTER_PORTABLE | constants.CU_MEMHOSTREGISTER_DEVICEMAP
        try:
            self.driver.call("cuMemHostRegister", pointer, num_bytes, flags, detail=f"at {pointer:#x}")
        except (DeviceError, SegmentTooLarge):
            return False
        self._adopted.append(pointer)
        return int(self.driver.call("cuMemHostGetDevicePointer", pointer, 0)) == pointer

    def free_bytes(self) -> int:
        """Bytes of this GPU's memory that are free."""
        self.make_current()
        free, _ = self.driver.call("cuMemGetInfo")
        return int(free)

    def peer(self, ordinal: int) -> Peer:
        """How this GPU reaches the memory of GPU `ordinal`: probe before choosing loads or messages."""
        if ordinal == self.ordinal:
            return Peer(ordinal, can_access=True, native_atomics=True)
        constants = self.driver.constants
        other = self.driver.call("cuDeviceGet", ordinal)
        native = constants.CUdevice_P2PAttribute.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED
        can_access = bool(self.driver.call("cuDeviceCanAccessPeer", self._device, other))
        return Peer(
            ordinal,
            can_access,
            can_access and bool(self.driver.call("cuDeviceGetP2PAttribute", native, self._device, other)),
        )

    def make_current(self) -> None:
        """Make this GPU's context the calling thread's: once in each thread that launches or copies."""
        self.driver.call("cuCtxSetCurrent", self.context)

    def close(self) -> None:
        """Give back every range and the context. No pointer of this device may be used afterwards.

        After an error that stays there is nothing to give back: it goes with the process.
        """
        if self.driver.is_lost:
            self._ranges, self._adopted = [], []
            return
        self.make_current()
        while self._adopted:
            self.driver.call("cuMemHostUnregister", self._adopted.pop())
        for known in list(self._ranges):
            self.release_range(known.address, known.num_bytes)
        self.driver.call("cuDevicePrimaryCtxRelease", self._device)

    def _unmap_piece(self, home: _Range, address: int) -> None:
        num_bytes = home.mapped.pop(address)
        self.driver.call("cuMemUnmap", home.pointer + (address - home.address), num_bytes)

    def _range_of(self, address: int, num_bytes: int = 1) -> _Range:
        place = bisect.bisect_right(self._ranges, address, key=lambda known: known.address) - 1
        if place >= 0 and self._ranges[place].holds(address, num_bytes):
            return self._ranges[place]
        raise AddressError(
            f"{address:#x} to {address + num_bytes:#x} lies in no range reserved on {self.NAME}"
        )

    def _location(self) -> Any:
        location = self.driver.constants.CUmemLocation()
        location.type = self.driver.constants.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = self.ordinal
        return location

    def _read_properties(self) -> Properties:
        names = self.driver.constants.CUdevice_attribute

        def attribute(name: str) -> int:
            wanted = getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self.driver.call("cuDeviceGetAttribute", wanted, self._device))

        major, minor = attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")
        shares = attribute("VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED")
        shares = shares and attribute("HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED")
        name = bytes(self.driver.call("cuDeviceGetName", 256, self._device)).split(b"\0")[0].decode()
        total = int(self.driver.call("cuDeviceTotalMem", self._device))
        return Properties(name, (major, minor), total, bool(shares))

    def _check(self, start: int, num_bytes: int) -> None:
        if start % self.granularity:
            raise AlignmentError(start, self.granularity)
        if num_bytes <= 0 or num_bytes % self.granularity:
            raise ConfigError(
                f"{num_bytes} bytes are not a positive multiple of {format_size(self.granularity)},"
                f" the unit of {self.NAME}"
            )


def num_devices() -> int:
    """CUDA devices of this machine. Raises DeviceMissing where there is no driver."""
    return int(cuda_driver.load().call("cuDeviceGetCount"))
