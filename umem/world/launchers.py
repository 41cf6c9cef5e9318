"""Which launcher started this process, by the variables that it set: mpirun, mpiexec, srun.

A launcher inherits the variables of the one that started it, so the inner ones are asked first: Open MPI under srun
is Open MPI. torchrun is the innermost of all (torchrun.py).

The variables are those that a launcher gives to each of its processes and to nothing else. A batch script of Slurm
has SLURM_PROCID and SLURM_NTASKS, and is one process all the same: SLURM_STEP_NUM_TASKS comes from srun alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..errors import ConfigError


@dataclass(frozen=True)
class Launcher:
    """The variables of a launcher.

    `num_local`: any of these says how many ranks run on this host; `num_hosts`: how many hosts there are.
    `jobs`: variables that together name the job, the first set that is complete.
    """

    name: str
    rank: str
    num_ranks: str
    num_local: tuple[str, ...] = ()
    num_hosts: str | None = None
    jobs: tuple[tuple[str, ...], ...] = ()


LAUNCHERS = (
    Launcher(
        "Open MPI's mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        jobs=(("PMIX_NAMESPACE",), ("OMPI_MCA_ess_base_jobid",)),
    ),
    Launcher(
        "MVAPICH2's mpirun",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    Launcher(
        "mpiexec of MPICH or Intel MPI",
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
        jobs=(("PMI_JOBID",),),
    ),
    Launcher(
        "Slurm's srun",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        num_hosts="SLURM_STEP_NUM_NODES",
        jobs=(("SLURM_JOB_ID", "SLURM_STEP_ID"),),
    ),
)

PMIX_RANK = "PMIX_RANK"  # PMIx has no variable for the number of ranks


@dataclass(frozen=True)
class Request:
    """A launcher's variables: this process's rank, the number of ranks, and a name of the job, unique on this host."""

    launcher: str
    rank: int
    num_ranks: int
    job: str
    is_one_host: bool


def request() -> Request | None:
    """The request of this process's launcher; None where umem knows none.

    Warns where an outer launcher started another number of ranks. Raises ConfigError for variables that contradict
    each other.
    """
    found = list(_claims())
    if not found:
        if config.text(PMIX_RANK) is not None:
            raise ConfigError(
                f"{PMIX_RANK} is set, so a launcher started this process among others, and no variable says how many;"
                " start it with mpirun, srun or umem run, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
        return None
    inner, *outer = found
    _warn_of_others(inner.launcher, inner.rank, inner.num_ranks, outer)
    return inner


def innermost() -> Request | None:
    """The request of the innermost launcher of this process; None without one."""
    return next(_claims(), None)


def compare_with_torchrun(rank: int, world_size: int) -> None:
    """Warn where another launcher started another number of ranks than WORLD_SIZE, which wins.

    Raises ConfigError where WORLD_SIZE is 1 and it started more: each would be a world of its own.
    """
    outer = list(_claims())
    for claim in outer:
        if world_size == 1 and claim.num_ranks > 1:
            raise ConfigError(
                f"WORLD_SIZE=1 and {claim.launcher} started {claim.num_ranks} ranks: unset RANK and WORLD_SIZE to"
                f" join them (env -u RANK -u WORLD_SIZE), or have torchrun start them all (--nnodes)"
            )
    _warn_of_others("torchrun", rank, world_size, outer)


def _warn_of_others(inner: str, rank: int, num_ranks: int, outer: Iterable[Request]) -> None:
    for claim in outer:
        if rank == 0 and claim.num_ranks not in (1, num_ranks):
            warnings.warn(
                f"{claim.launcher} started {claim.num_ranks} processes and {inner}, inside of it, {num_ranks}: a"
                " world has those of the inner one",
                stacklevel=2,
            )


def _claims() -> Iterator[Request]:
    """What each launcher says whose variables are set, the inner ones first."""
    for launcher in LAUNCHERS:
        if config.text(launcher.rank) is not None and config.text(launcher.num_ranks) is not None:
            yield _request_of(launcher)


def _request_of(launcher: Launcher) -> Request:
    rank, num_ranks = int(config.integer(launcher.rank) or 0), int(config.integer(launcher.num_ranks) or 0)
    if not 0 <= rank < num_ranks:
        raise ConfigError(f"{launcher.rank}={rank} is not below {launcher.num_ranks}={num_ranks}")
    return Request(launcher.name, rank, num_ranks, _job(launcher), _is_one_host(launcher, num_ranks))


def _is_one_host(launcher: Launcher, num_ranks: int) -> bool:
    """Whether all ranks run here. Where the launcher does not say: unless an address was given for many hosts."""
    local = [config.integer(name) for name in launcher.num_local if config.text(name) is not None]
    if local:
        return local[0] == num_ranks
    if launcher.num_hosts is not None and config.text(launcher.num_hosts) is not None:
        return config.integer(launcher.num_hosts) == 1
    return config.text("MASTER_ADDR") is None


def _job(launcher: Launcher) -> str:
    """A name of the job, the same in each of its processes on this host."""
    for names in launcher.jobs:
        values = [config.text(name) for name in names]
        if all(values):
            return " ".join(map(str, values))
    return _launching_process(launcher.rank)


def _launching_process(rank_variable: str) -> str:
    """The nearest ancestor that is no rank itself, by pid and start time: the launcher's own process on this host."""
    pid = os.getppid()
    while _has_variable(pid, rank_variable):
        pid = int(_stat(pid)[1])
    return f"{pid} {_stat(pid)[19]}"


def _has_variable(pid: int, name: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # another user's, so no rank; or pid 0, above all that this namespace shows
        return False
    return any(entry.startswith(name.encode() + b"=") for entry in environment.split(b"\0"))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks: state, parent, ... start time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20
