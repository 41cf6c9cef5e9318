"""What `umem info` says of GPUs: the driver, each GPU and what it lacks, and what each rank's CPU and GPU reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UmemError
from ..memory.reach import KINDS_OF_MEMORY
from ..units import format_size
from .facts import Fact, Group

NO_LOAD_STORE = "agent"  # asked instead: its near operations, scalars, get and put
NO_WAY = "-"  # a GPU asks nobody: its CPU does


def gpus() -> Group:
    """The driver and the GPUs of this machine; where there is none, why, and what would change that."""
    from ..memory.device import cuda, cuda_driver

    title = "gpus"
    try:
        driver = cuda_driver.load()
        count = cuda.num_devices()
    except (UmemError, ImportError, OSError) as error:
        return Group(title, (Fact("none used", str(error)),))
    version = int(driver.call("cuDriverGetVersion"))
    facts = [Fact("driver", f"CUDA {version // 1000}.{version % 1000 // 10}, {count} GPUs")]
    for ordinal in range(count):
        facts += _gpu(ordinal, count)
    return Group(title, tuple(facts))


def _gpu(ordinal: int, count: int) -> list[Fact]:
    from ..kernels.build.code_object import CAPABILITIES, OLDEST
    from ..memory.device import cuda

    name = f"cuda:{ordinal}"
    try:
        gpu = cuda.CudaDevice(ordinal)
    except UmemError as error:  # too old, or without shared memory: the text has the way out
        return [Fact(name, "cannot be a rank's device", str(error))]
    try:
        about = gpu.properties
        major, minor = about.compute_capability
        facts = [
            Fact(
                name,
                f"{about.name}, compute capability {major}.{minor}, {format_size(about.memory_bytes)},"
                f" {format_size(gpu.free_bytes())} free",
            ),
            Fact(f"{name} memory", "virtual memory management, shared by POSIX descriptors"),
        ]
        fitting = [cc for cc in CAPABILITIES if cc[0] == major and cc <= (major, minor)]
        if fitting:
            code = "machine code of sm_{}{}, without a compiler".format(*max(fitting))
        else:
            code = "PTX, which the driver compiles"
        too_old = (major, minor) < OLDEST
        oldest = "{}.{}".format(*OLDEST)
        fix = (
            f"kernels are compiled for compute capability {oldest} and newer: take a newer GPU, or device=cpu"
        )
        facts.append(Fact(f"{name} kernels", "none" if too_old else code, fix if too_old else ""))
        native = gpu.has("HOST_NATIVE_ATOMIC_SUPPORTED")
        facts.append(
            Fact(f"{name} atomics on host memory", "native" if native else "not native: the CPU does them")
        )
        peers = [gpu.peer(other) for other in range(count) if other != ordinal]
        ways = [_way(peer) for peer in peers]
        facts.append(Fact(f"{name} reaches", ", ".join(ways) or "no other GPU: there is none"))
        return facts
    finally:
        gpu.close()


def _way(peer: Any) -> str:
    if not peer.can_access:
        return f"cuda:{peer.ordinal} not: by its rank's agent"
    return f"cuda:{peer.ordinal} by load/store, atomics {'too' if peer.native_atomics else 'not'}"


def look_around(space: Any) -> dict[str, list[list[str]]]:
    """In a rank: for each side that it has, by home, how each kind of that home's memory is reached."""
    reach = space.segments.reach
    sides = {"cpu": (reach.by_cpu, NO_LOAD_STORE)}
    if space.segments.gpu is not None:
        sides[space.segments.gpu.NAME] = (reach.by_gpu, NO_WAY)
    return {
        side: [
            ["load/store" if reaches(home, kind) else otherwise for kind in KINDS_OF_MEMORY.values()]
            for home in range(space.num_ranks)
        ]
        for side, (reaches, otherwise) in sides.items()
    }


def reach_table(ranks: Sequence[dict[str, list[list[str]]]]) -> Group:
    """Rank and side by home: how its device, host and metadata memory is reached, homes that are alike together."""
    kinds = list(KINDS_OF_MEMORY)
    facts = []
    for rank, sides in enumerate(ranks):
        for side, homes in sides.items():
            alike: dict[str, list[str]] = {}
            for home, ways in enumerate(homes):
                one = (
                    ways[0]
                    if len(set(ways)) == 1
                    else ", ".join(map(" ".join, zip(kinds, ways, strict=True)))
                )
                alike.setdefault(one, []).append(str(home))
            told = [
                f"{'homes' if len(of) > 1 else 'home'} {' '.join(of)}: {ways}" for ways, of in alike.items()
            ]
            facts.append(Fact(f"rank {rank} by {side}", "; ".join(told)))
    return Group(f"reach of {', '.join(kinds)} memory", tuple(facts))
