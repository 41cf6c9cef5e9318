"""The environment and the machine's limits: the only reader of os.environ.

| variable | meaning |
|---|---|
| UMEM_SEGMENT | bytes of device memory that each rank contributes (a size: 2G) |
| UMEM_HOST_SEGMENT | bytes of host memory that each rank contributes |
| UMEM_LINE_CACHE | bytes of copies that a rank keeps of cached memory, for each line size |
| UMEM_PROTOCOL | the coherence protocol: msi, mesi, snoop, or a file |
| UMEM_HOST | name of this host; ranks with the same boot id and UMEM_HOST may map each other |
| UMEM_UCX | which libucp: auto, wheel, system, or a path |
| UMEM_DEVICE | what ranks work on: cpu, cuda, cuda:0,cuda:1, ... |
| UMEM_TIMEOUT_S | deadline of every wait |
| UMEM_NETWORK | interface that traffic between hosts may use; loopback only when unset |
| UMEM_CACHE | folder of compiled kernels and tuned sizes (default: XDG cache folder; where that is read-only, TMPDIR) |
| UMEM_BUILD | normal, or faults: kernels that can be killed at the n-th shared access |
| UMEM_FAULT_AT | with UMEM_BUILD=faults: the access at which the process is killed |
| UMEM_MPICH, UMEM_IMPI | folders of MPICH and Intel MPI, which `umem bench collective` compares with |
| RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT | as torchrun sets them |
| OMPI_COMM_WORLD_*, MV2_COMM_WORLD_*, PMI_*, SLURM_* | as mpirun, mpiexec and srun set them (docs/worlds.md) |
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError, UnknownName
from .units import parse_size

BUILDS = ("normal", "faults")


def text(name: str, default: str | None = None) -> str | None:
    """Value of the environment variable `name`, or `default` where it is unset or empty."""
    return os.environ.get(name) or default


def integer(name: str, default: int | None = None) -> int | None:
    """Whole number in the environment variable `name`; ConfigError for anything else."""
    value = text(name)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name}={value!r} is not a whole number") from None


def size(name: str, default: int | None = None) -> int | None:
    """Bytes in the environment variable `name`."""
    value = text(name)
    return default if value is None else parse_size(value)


def timeout_s() -> float:
    """Deadline of every wait, in seconds."""
    value = text("UMEM_TIMEOUT_S", "60")
    try:
        seconds = float(str(value))
    except ValueError:
        raise ConfigError(f"UMEM_TIMEOUT_S={value!r} is not a number of seconds") from None
    if not seconds > 0:
        raise ConfigError(f"UMEM_TIMEOUT_S={value!r} must be above 0")
    return seconds


def build() -> str:
    """Which build of the kernels this process uses: one of BUILDS."""
    name = str(text("UMEM_BUILD", "normal"))
    if name not in BUILDS:
        raise UnknownName("build", name, BUILDS)
    return name


def fault_at() -> int | None:
    """In the faults build: the shared access at which this process is killed; None for never."""
    return integer("UMEM_FAULT_AT")


def cache_roots() -> list[Path]:
    """Folders for this user's compiled kernels, the first that can be used first: UMEM_CACHE or the XDG cache folder,
    then folders of this user's own among the machine's temporary files."""
    own = text("UMEM_CACHE") or text("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    temporary = [Path(folder) for folder in (text("TMPDIR", "/tmp"), "/var/tmp", "/dev/shm") if folder]
    return [Path(own) / "umem", *(folder / f"umem-cache-{os.getuid()}" for folder in temporary)]


def host_name() -> str:
    """This host's identity: the kernel's boot id and UMEM_HOST, never inferred from a network name."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{text('UMEM_HOST', '')}"


def snapshot() -> dict[str, str]:
    """A copy of the whole environment, for processes that umem starts."""
    return dict(os.environ)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` inside the block, for libraries that read them when loaded, and then restore the old values."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def apply(variables: Mapping[str, str]) -> None:
    """Set `variables` for the rest of this process: a rank's own settings, handed down by its launcher."""
    os.environ.update(variables)
