"""The start-up of a rank's part of the address space: memory, control page, transport, agent, heap.

The order matters. A rank's own metadata is complete before a peer can map it; the agent answers before
any peer can ask; every rank is connected before the first collective call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..agent import Agent
from ..coherence.load import check_protocol, load_protocol
from ..coherence.protocol import PROTOCOLS, Protocol
from ..errors import FabricMissing
from ..fabric.mapped import MappedFabric
from ..fabric.ucx import library
from ..fabric.ucx.channels import num_channels
from ..fabric.ucx.fabric import UcxFabric
from ..heap import Heap, HeapLayout
from ..kernels import status
from ..kernels.coherent.layout import CACHE_HEADER_BYTES
from ..kernels.page.barrier import cpu_world_barrier
from ..kernels.page.control import CONTROL_BYTES, CONTROL_COHERENCE
from ..lines.home.prober import PROBE_CREDITS
from ..lines.layout import DEFAULT_CACHE_BYTES, DEFAULT_WAYS, CacheSize, LineLayout
from ..memory.address import BLOCK_LOG2, AddressMap
from ..memory.control_page import ControlPage
from ..memory.segment import Segments, check_fits, default_device_bytes
from ..memory.waiting import complete
from ..units import align_up
from ..world import World, open_files
from ..world.spec import GPU
from .compiling import notify_of_compiling

if TYPE_CHECKING:
    from ..agent.serving.gpu_memory import GpuMemory
    from ..lines.home.service import LineService
    from ..memory.device.cuda import CudaDevice

BLOCK_BYTES = 1 << BLOCK_LOG2
HOST_SHARE = 4  # by default a rank contributes a quarter as much host memory as device memory
# Open files of a rank: its own, for each of its channels, for each rank of the world beyond these.
FILES_OF_RANK, FILES_OF_CHANNEL, FILES_BETWEEN = 8, 11, 2


@dataclass
class Parts:
    """The parts of a space that `connect` makes."""

    segments: Segments
    page: ControlPage
    mapped: MappedFabric
    fabric: UcxFabric | None
    agent: Agent
    heap: Heap
    lines: LineLayout
    line_service: LineService | None  # None where every rank is mapped
    synchronise: Callable[[float], None]


@dataclass
class Plan:
    """The layout and the protocol that all ranks agree on before they have memory."""

    addresses: AddressMap
    lines: LineLayout
    protocol: list[int]  # the table's words


def plan(world: World, gpu: CudaDevice | None) -> Plan:
    """The address map of `world`, its caches and its protocol, as rank 0's spec asks for them. Collective.

    By default a device segment is as large as every rank's device can give, `gpu` for this one. Raises
    SegmentTooLarge where this host cannot back the segments of its ranks, ConfigError, ProtocolError.
    """
    spec = world.spec
    local = [rank for rank, host in enumerate(world.hosts) if host == world.host]
    num_local = len(local)
    device = default_device_bytes(num_local) if spec.segment_bytes is None else spec.segment_bytes
    if gpu is not None and spec.segment_bytes is None:
        device = min(device, gpu.free_bytes() // (2 * num_local))
    device = align_up(max(device, BLOCK_BYTES), BLOCK_BYTES)
    host = device // HOST_SHARE if spec.host_segment_bytes is None else spec.host_segment_bytes
    host = align_up(host, BLOCK_BYTES)
    size = CacheSize(
        DEFAULT_CACHE_BYTES if spec.line_cache_bytes is None else spec.line_cache_bytes,
        DEFAULT_WAYS if spec.line_cache_ways is None else spec.line_cache_ways,
    )
    wishes = {
        "device": device,
        "host": host,
        "fraction": spec.striped_fraction,
        "cache": [size.num_bytes, size.num_ways],
        "gpu": gpu is not None,
        "protocol": _protocol(spec.protocol).words() if world.rank == 0 else [],
    }
    told = [json.loads(blob) for blob in world.exchange("sizes", json.dumps(wishes).encode())]
    agreed = told[0]
    device, host = agreed["device"], agreed["host"]
    if spec.segment_bytes is None:
        device = min(other["device"] for other in told)
    gpu_ranks = tuple(rank for rank, other in enumerate(told) if other["gpu"])
    num_on_host = sum(rank not in gpu_ranks for rank in local)
    check_fits(num_local, num_on_host * device + num_local * host)
    records = CONTROL_BYTES + align_up(HeapLayout.meta_bytes(world.num_ranks, device, host), BLOCK_BYTES)
    lines = LineLayout(records, device, host, CacheSize(*agreed["cache"]))
    plan = AddressMap.plan(world.num_ranks, device, host, lines.end, agreed["fraction"], gpu_ranks=gpu_ranks)
    return Plan(plan, lines, agreed["protocol"])


def _protocol(name_or_file: str) -> Protocol:
    """The protocol of this name; one from a file is model-checked first. Raises ProtocolError."""
    if name_or_file in PROTOCOLS:
        return PROTOCOLS[name_or_file]
    protocol = load_protocol(name_or_file)
    check_protocol(protocol)
    return protocol


def connect(world: World) -> Parts:
    """Make this rank's part of the address space and connect it with the other ranks'. Collective."""
    open_files.require(_num_files(world), f"a rank of {world.num_ranks}")
    gpu = open_gpu(world)
    agreed = plan(world, gpu)
    address_map = agreed.addresses
    spec = world.spec
    segments = Segments(world, address_map, gpu, spec.prefault, spec.huge_pages)
    num_local = sum(host == world.host for host in world.hosts)
    words = segments.view(segments.control, CONTROL_BYTES).view("int64")
    page = ControlPage(words)
    # Counted by the world's cores: the rank itself may be pinned to one of them by now.
    page.initialise(world.rank, address_map, has_own_core=num_local <= len(world.usable_cores))
    layout = HeapLayout(address_map)
    layout.initialise(world.rank)
    words[CONTROL_COHERENCE] = agreed.lines.start
    header = segments.view(agreed.lines.header(address_map, world.rank), CACHE_HEADER_BYTES).view("int64")
    agreed.lines.initialise(header, address_map, world.rank, agreed.protocol)
    segments.connect()
    page.admit(segments.reach.words)
    fabric = _transport(world, segments)
    is_mapped = len(segments.mapped_ranks) == world.num_ranks
    agent = Agent(
        world,
        segments.control,
        fabric,
        agent_credits=0 if is_mapped else PROBE_CREDITS,
        gpu_memory=None if gpu is None else _gpu_memory(gpu, segments),
    )
    for one in (page, agent.page, *([] if fabric is None else [fabric.page])):
        one.departed = world.departed
    header_at = agreed.lines.header(address_map, world.rank)
    service = None if is_mapped else _line_service(agent, fabric, header_at, segments)
    heap = Heap(segments.control, layout, segments.mapped_ranks, agent)
    agent.start()
    world.exchange("ready", b"")
    notify_of_compiling(world.rank, page, segments, address_map, agent)
    synchronise = _barrier(world, segments, page, fabric)
    return Parts(segments, page, MappedFabric(), fabric, agent, heap, agreed.lines, service, synchronise)


def open_gpu(world: World) -> CudaDevice | None:
    """The GPU that this rank works on; None where it works on the CPU.

    "cuda" is the host's GPUs in turn. Raises DeviceMissing, with what is missing.
    """
    spec = world.spec
    if not spec.is_gpu_rank(world.rank):
        return None
    from ..memory.device.cuda import CudaDevice, num_devices

    name = spec.device_of(world.rank)
    if name != GPU:
        return CudaDevice(int(name.removeprefix(f"{GPU}:")))
    before = [
        rank for rank in range(world.rank) if world.hosts[rank] == world.host and spec.device_of(rank) == GPU
    ]
    return CudaDevice(len(before) % max(num_devices(), 1))


def _gpu_memory(gpu: CudaDevice, segments: Segments) -> GpuMemory:
    """What serves this rank's GPU memory to CPUs. Loaded only where there is a GPU."""
    from ..agent.serving.gpu_memory import GpuMemory

    address, _, _ = segments.map.device_pieces(segments.world.rank)[0]
    return GpuMemory(gpu, segments.control, address)


def _num_files(world: World) -> int:
    """Files that a rank opens; measured with UCX 1.22 in worlds of 1 to 17 ranks."""
    if not library.is_available():
        return FILES_OF_RANK + FILES_BETWEEN * world.num_ranks
    channels = num_channels(world.ucx_environment, world.num_ranks)
    return FILES_OF_RANK + FILES_OF_CHANNEL * channels + FILES_BETWEEN * (world.num_ranks - channels)


def _line_service(agent: Agent, fabric: UcxFabric | None, header: int, segments: Segments) -> LineService:
    """The agent's service for caches of other ranks; loaded only where some ranks are not mapped."""
    from ..lines.home.service import LineService

    assert fabric is not None
    return LineService(agent, fabric, header, segments.mapped_ranks)


def _transport(world: World, segments: Segments) -> UcxFabric | None:
    """The UCX transport; None where UCX is not installed and every rank is mapped. Else raises FabricMissing."""
    try:
        library.load()
    except FabricMissing:
        if not segments.reach.is_whole:
            raise
        return None
    return UcxFabric(world, segments.control, segments.regions, world.spec.timeout_s)


def _barrier(
    world: World, segments: Segments, page: ControlPage, fabric: UcxFabric | None
) -> Callable[[float], None]:
    """The barrier of this world: by loads and stores where every rank is mapped, else by messages."""
    others = [rank for rank in range(world.num_ranks) if rank != world.rank]
    if len(segments.mapped_ranks) == world.num_ranks:

        def by_memory(timeout_s: float) -> None:
            def step() -> int:
                return cpu_world_barrier(segments.control, page.epoch, status.SLICE_NS)

            complete(step, page, timeout_s, "barrier", needs=others)

        return by_memory
    assert fabric is not None

    def by_messages(timeout_s: float) -> None:
        fabric.barrier(timeout_s)

    return by_messages
