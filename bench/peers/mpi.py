"""MPI as a peer: mpi4py and an MPI that is installed, driven from compiled loops.

Open MPI is looked for beside this Python and on the path; it is the one for all operations. MPICH and Intel MPI are
where UMEM_MPICH and UMEM_IMPI say, and take part in collectives. A job stays up and sleeps in read() between its
blocks; MPI polls only inside one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from umem import config
from umem.errors import FabricError, Waived
from umem.units import MIB

from ..harness.side import PartSide
from ..harness.wire import Part, serve
from . import check_world

if TYPE_CHECKING:
    from ..harness.case import Point, Side
    from ..harness.stats import Samples
    from ..harness.wire import Group
    from ..harness.workers import Workers

OPERATIONS = ("message", "get", "put", "fetch_add", "reduce", "exchange")
_SEMANTICS = {"message": "message", "reduce": "message", "exchange": "message"}
# Where each MPI is: the variable that names its folder, none for Open MPI.
INSTALLATIONS = {"mpi": "", "mpich": "UMEM_MPICH", "impi": "UMEM_IMPI"}
PARAMETERS_OF_TCP = {"pml": "ob1", "btl": "tcp,self", "btl_tcp_if_include": "lo", "coll": "^sm,xhc"}
OVER_TCP = [word for pair in PARAMETERS_OF_TCP.items() for word in ("--mca", *pair)]
MPI_PACKAGES = {"mpich": "mpich", "impi": "impi-rt"}
_FIX = "pip install 'umem[peers]'"
BATCH_BYTES = MIB  # a sample of small operations is a batch of as many as this, at most _BATCH
_BATCH = 1000
TARGET = 1  # rank at which memory is accessed: a word for fetch_add, then room for gets and puts
WORD_BYTES = 8
MAX_BYTE = 255


def group(workers: Workers, name: str = "mpi", over_tcp: bool = False) -> Group:
    """The job of an MPI of INSTALLATIONS; Open MPI's may have its ranks talk by TCP over loopback."""
    num_ranks = workers.options.ranks
    folder = config.text(INSTALLATIONS[name]) if INSTALLATIONS[name] else None

    def start(path: str) -> list[str]:
        if name == "mpi" and over_tcp:
            return command(path, num_ranks, OVER_TCP)
        check_world(workers, "MPI")
        return command(path, num_ranks) if name == "mpi" else command_of(name, folder, path, num_ranks)

    environment = {"LD_LIBRARY_PATH": f"{folder}/lib", "MPI4PY_MPIABI": "mpich"} if folder else None
    key = (name, num_ranks, over_tcp)
    return workers.group(key, f"{name} job of {num_ranks} ranks", start, num_ranks, environment)


def side(workers: Workers, operation: str, point: Point) -> Side:
    """The job of Open MPI at `point`."""
    part = Part(group(workers), "umem.bench.peers.mpi:Mpi", operation=operation, num_bytes=point.num_bytes)
    semantics = _SEMANTICS.get(operation, "rma")
    return PartSide("mpi", semantics, part, "block", peer="mpi", transport="shared memory")


def command(path: str, num_ranks: int, options: Sequence[str] = ()) -> list[str]:
    """The command that starts the job, with `options` of mpirun. Raises Waived where there is no MPI."""
    mpirun = Path(sys.executable).with_name("mpirun")
    program = str(mpirun) if mpirun.exists() else shutil.which("mpirun")
    if program is None or find_spec("mpi4py") is None:
        raise Waived(f"no mpi4py and mpirun here. Fix: {_FIX}")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    many = ["--oversubscribe", "--bind-to", "none"]
    return [
        program,
        *root,
        *many,
        *options,
        "-n",
        str(num_ranks),
        sys.executable,
        "-m",
        "umem.bench.peers.mpi",
        path,
    ]


def command_of(name: str, folder: str | None, path: str, num_ranks: int) -> list[str]:
    """`command` of an MPI in a folder of its own. Raises Waived where it is not there."""
    launcher = Path(folder or "") / "bin" / "mpiexec.hydra"
    if folder is None or not launcher.exists() or find_spec("mpi4py") is None:
        package = MPI_PACKAGES[name]
        where = f"pip install --prefix FOLDER {package}, and {INSTALLATIONS[name]}=FOLDER"
        raise Waived(f"no {package} here. Fix: {where}; mpi4py by {_FIX}")
    return [str(launcher), "-n", str(num_ranks), sys.executable, "-m", "umem.bench.peers.mpi", path]


class Mpi:
    """One operation at one size, in every rank of the job. `context` is the mpi4py.MPI module."""

    def __init__(self, context: Any, operation: str, num_bytes: int):
        from . import mpi_loops

        self.mpi, self.loops = context, mpi_loops
        self.operation, self.num_bytes = operation, num_bytes
        world = context.COMM_WORLD
        self.rank, self.num_ranks = world.Get_rank(), world.Get_size()
        self.batch = max(1, min(_BATCH, BATCH_BYTES // num_bytes))
        self.src = np.full(num_bytes * self.num_ranks, self.rank + 1, np.uint8)
        self.dst = np.zeros(num_bytes * self.num_ranks, np.uint8)
        self.errors = 0
        self.lap = 0  # of gets and puts: the value of every byte
        self.num_added = 0  # the value of fetch_add's word
        self.window: Any = None
        if operation in ("get", "put", "fetch_add"):
            self.window = context.Win.Allocate(WORD_BYTES + num_bytes, 1, comm=world)
            self.window.Lock_all()
            if self.rank == 0:
                self.window.Put(np.zeros(WORD_BYTES, np.uint8), TARGET, 0)
                self.window.Flush(TARGET)
        if operation == "reduce":
            self.src = np.full(max(num_bytes // 4, 1), float(self.rank + 1), np.float32)
            self.dst = np.zeros_like(self.src)

    def block(self, num_samples: int) -> Samples | None:
        """Seconds per operation, at rank 0."""
        out = np.zeros(num_samples)
        code = getattr(self, "_" + self.operation)(out.ctypes.data, num_samples)
        if code:
            raise FabricError(f"MPI returned an error in {self.operation} of {self.num_bytes} bytes")
        return out if self.rank == 0 else None

    def _message(self, out: int, num_samples: int) -> int:
        if self.rank > 1:
            return 0
        code = self.loops.message_many(
            out,
            num_samples,
            self.batch,
            self.src.ctypes.data,
            self.dst.ctypes.data,
            self.num_bytes,
            self._handle(self.mpi.BYTE),
            self.rank,
            self._handle(self.mpi.COMM_WORLD),
        )
        self.errors += bool((self.dst[: self.num_bytes] != 2 - self.rank).any())
        return int(code)

    def _fetch_add(self, out: int, num_samples: int) -> int:
        if self.rank != 0:
            return 0
        one, old = np.ones(1, np.int64), np.zeros(1, np.int64)
        code = self.loops.fetch_add_many(
            out,
            num_samples,
            self.batch,
            one.ctypes.data,
            old.ctypes.data,
            self._handle(self.mpi.INT64_T),
            TARGET,
            self._handle(self.mpi.SUM),
            self._handle(self.window),
        )
        self.num_added += num_samples * self.batch
        self.errors += int(old[0]) + 1 != self.num_added
        return int(code)

    def _get(self, out: int, num_samples: int) -> int:
        return self._access(out, num_samples, is_put=0)

    def _put(self, out: int, num_samples: int) -> int:
        return self._access(out, num_samples, is_put=1)

    def _access(self, out: int, num_samples: int, is_put: int) -> int:
        """What is put is new in every block and read back; what is got stands there since just before."""
        if self.rank != 0:
            return 0
        self.lap = self.lap % MAX_BYTE + 1
        mine, found = self.src[: self.num_bytes], self.dst[: self.num_bytes]
        mine[:], found[:] = self.lap, 0
        if not is_put:
            self.window.Put(mine, TARGET, WORD_BYTES)
            self.window.Flush(TARGET)
        code = self.loops.access_many(
            out,
            num_samples,
            self.batch,
            is_put,
            (mine if is_put else found).ctypes.data,
            self.num_bytes,
            self._handle(self.mpi.BYTE),
            TARGET,
            self._handle(self.window),
        )
        if is_put:
            self.window.Get(found, TARGET, WORD_BYTES)
            self.window.Flush(TARGET)
        self.errors += bool((found != self.lap).any())
        return int(code)

    def _reduce(self, out: int, num_samples: int) -> int:
        code = self._collective(out, num_samples, len(self.src), self.mpi.FLOAT, self._handle(self.mpi.SUM))
        self.errors += bool((self.dst != self.num_ranks * (self.num_ranks + 1) / 2).any())
        return code

    def _exchange(self, out: int, num_samples: int) -> int:
        code = self._collective(out, num_samples, self.num_bytes, self.mpi.BYTE, 0)
        expected = np.repeat(np.arange(1, self.num_ranks + 1, dtype=np.uint8), self.num_bytes)
        self.errors += bool((self.dst != expected).any())
        return code

    def _collective(self, out: int, num_samples: int, count: int, datatype: Any, add: int) -> int:
        code = self.loops.collective_many(
            out,
            num_samples,
            max(self.batch // 10, 1),
            self.src.ctypes.data,
            self.dst.ctypes.data,
            count,
            self._handle(datatype),
            add,
            self._handle(self.mpi.COMM_WORLD),
        )
        return int(code)

    def _handle(self, thing: Any) -> int:
        return int(self.mpi._handleof(thing))

    def num_errors(self) -> int:
        """Wrong data since the last call."""
        found, self.errors = self.errors, 0
        return found

    def close(self) -> None:
        """Free the window. Collective."""
        if self.window is not None:
            self.window.Unlock_all()
            self.window.Free()


def load_library() -> None:
    """Make the libmpi that mpi4py has loaded visible to compiled code."""
    from llvmlite import binding

    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(None, 5)[-1]
        if Path(path).name.startswith("libmpi.so"):
            binding.load_library_permanently(path)
            return
    raise FabricError("mpi4py has loaded no libmpi.so")


def main() -> None:
    """One rank of the job: `python -m umem.bench.peers.mpi SOCKET`."""
    from mpi4py import MPI

    from umem import limits

    cores = limits.usable_cores()
    rank = MPI.COMM_WORLD.Get_rank()
    if MPI.COMM_WORLD.Get_size() <= len(cores):
        os.sched_setaffinity(0, {cores[rank]})
    load_library()
    serve(sys.argv[1], rank, MPI)


if __name__ == "__main__":
    main()
