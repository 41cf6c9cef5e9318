"""The parent of a world's ranks: one thread that loads everything once, then forks.

`python -m umem.world.warm_parent FD` serves one `launch`: the job comes over the socket FD, the report
goes back over it. `umem run` is its own warm parent and uses only `warm_up`.
"""

from __future__ import annotations

import gc
import pickle
import socket
import sys
from collections.abc import Iterable
from importlib import import_module

from .. import config
from ..errors import ConfigError, UmemError
from .frames import Channel, FrameBuffer, Kind, encode, unpack_blobs
from .job import ALL_RESULTS, Job, Outcome, Report
from .leave import leave
from .ranks import run_function
from .spec import MAPPED
from .supervisor import Supervisor

# These libraries start threads of their own when they are loaded, unless told not to, and only a process
# of one thread may fork ranks. One core is also what a rank has.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# A module that ranks use, on a higher floor: named as data, so that the world does not import it.
AHEAD = "umem.space.ahead"

_READ_BYTES = 1 << 18


def warm_up(preload: Iterable[str] = (), for_space: bool = True, kind: str = MAPPED) -> None:
    """Import and load what every rank needs, kernels of its start included, so that ranks import nothing.

    Kernels that are not in the cache are compiled here, once a machine: other worlds that start now wait
    for them. Without `for_space` only the modules of `preload` are imported.
    """
    gc.disable()  # nothing that is loaded goes away: collecting meanwhile takes a tenth of the time
    with config.environment(ONE_THREAD):
        for name in preload:
            _preload(name)
        if for_space:
            import_module(AHEAD).prepare(kind)
    # A collection in a rank would write to, and so copy, every page that it shares with its parent.
    gc.freeze()
    gc.enable()


def _preload(name: str) -> None:
    """Import a module that the user named. Raises ConfigError where there is none."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot preload {name!r}: {error}; looked in {', '.join(sys.path)}") from None


def main() -> None:
    """Serve one `launch`."""
    caller = socket.socket(fileno=int(sys.argv[1]))
    job, pickled_work = _receive_job(caller)
    try:
        report = Report(outcome=_run(job, pickled_work, caller))
    except UmemError as error:
        report = Report(error=error)
    caller.setblocking(True)
    caller.sendall(encode(Kind.REPORT, 0, pickle.dumps(report)))


def _receive_job(caller: socket.socket) -> tuple[Job, bytes]:
    frames = FrameBuffer()
    while data := caller.recv(_READ_BYTES):
        for frame in frames.feed(data):
            assert frame.kind is Kind.JOB, frame.kind
            job, pickled_work = unpack_blobs(frame.payload)
            return pickle.loads(job), pickled_work
    raise SystemExit("the process that called umem.launch has ended")


def _run(job: Job, pickled_work: bytes, caller: socket.socket) -> Outcome:
    import_module("cloudpickle")  # so that no rank has to; scripts need none
    sys.path[:] = job.module_path
    warm_up(job.preload, job.on_space, job.spec.kind)

    def work(rank: int, channel: Channel) -> int:
        returns = job.results == ALL_RESULTS or rank == 0
        return run_function(channel, pickled_work, job.on_space, returns)

    return Supervisor(job.spec, work, environment=job.environment, needs_results=True, caller=caller).run()


if __name__ == "__main__":
    main()
    leave(0)
