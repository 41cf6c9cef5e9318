"""`umem.launch`: call a function in every rank of a new world, from any process."""

from __future__ import annotations

import codecs
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import IO, Any, TextIO

from ..errors import LaunchError, UnknownName, WorldError
from .frames import FrameBuffer, Kind, encode, pack_blobs
from .job import ALL_RESULTS, FIRST_RESULT, Failure, Job, Outcome, Report
from .liveness import describe_exit
from .spec import CONTINUE, END, MAPPED, WorldSpec

_READ_BYTES = 1 << 18
SIGNALS_S = 0.5  # Python sees a signal that came just before the wait only after it
_PARENT_END_TIMEOUT_S = 10.0  # after its last word; its own rules end the ranks sooner


def launch(
    work: Callable[..., Any],
    ranks: int = 2,
    world: str = MAPPED,
    hosts: int | None = None,
    segment: int | str | None = None,
    args: Sequence[Any] = (),
    pin: bool | None = None,
    timeout_s: float | None = None,
    prefault: bool = False,
    huge_pages: bool = False,
    line_cache: int | str | None = None,
    line_cache_ways: int | None = None,
    protocol: str | None = None,
    device: str | None = None,
    on_failure: str = END,
    results: str = FIRST_RESULT,
    environment: Mapping[str, str] | None = None,
    preload: Sequence[str] = (),
    spec: WorldSpec | None = None,
) -> Any:
    """Call `work(space, *args)` in each rank of a new world and return what rank 0's call returned.

    The ranks are new processes, forked from a fresh parent of one thread; `work` and `args` travel by
    cloudpickle, so functions of notebooks and of __main__ work. The output of ranks appears here, each line
    marked with its rank. `results="all"` returns every rank's result, by rank. `environment` is added to
    each rank's, `preload` names modules to import once, before the ranks are forked. `prefault` backs every
    page of the segments at the start, `huge_pages` asks for huge ones. A rank keeps `line_cache` bytes of copies of
    cached memory, in sets of `line_cache_ways`, by the coherence `protocol`. `device` names the devices of ranks, in
    turn: "cpu", "cuda" (the host's GPUs in turn), "cuda:0,cuda:1", "cuda,cpu", ...; the device segment of a GPU rank
    is its GPU's memory. `spec` replaces the arguments that describe the world.

    Raises the exception of the first rank that failed, caused by a LaunchError that holds its traceback
    as text; the LaunchError itself where the exception cannot travel or the rank was killed. With
    `on_failure="continue"` survivors go on, and in `results="all"` the failed ranks' exceptions stand in
    place of their results. WorldError where the world cannot be made.
    """
    if spec is None:
        memory: dict[str, Any] = {"prefault": prefault, "huge_pages": huge_pages}
        memory |= {"line_cache": line_cache, "line_cache_ways": line_cache_ways}
        waits: dict[str, Any] = {"timeout_s": timeout_s, "pin": pin, "on_failure": on_failure}
        spec = WorldSpec.of(ranks, world, hosts, segment, protocol=protocol, device=device, **memory, **waits)
    job = Job(spec, True, results, dict(environment or {}), tuple(preload))
    return run_job(job, work, args)


def run_job(job: Job, work: Callable[..., Any], args: Sequence[Any]) -> Any:
    """`launch` for a job that is already described."""
    import cloudpickle

    if job.results not in (FIRST_RESULT, ALL_RESULTS):
        raise UnknownName("results", job.results, (FIRST_RESULT, ALL_RESULTS))
    job = replace(job, module_path=list(sys.path))
    report = _Parent(job).run(job, cloudpickle.dumps((work, tuple(args))))
    if report.error is not None:
        raise report.error
    assert report.outcome is not None
    return _unpack(job, report.outcome)


def _unpack(job: Job, outcome: Outcome) -> Any:
    failures = {failure.rank: failure for failure in outcome.failures}
    cause = outcome.cause
    goes_on = job.spec.on_failure == CONTINUE and (job.results == ALL_RESULTS or 0 not in failures)
    if cause is not None and not goes_on:
        _raise(cause)
    if job.results == FIRST_RESULT:
        return pickle.loads(outcome.results[0])
    return [
        _errors_of(failures[rank])[0] if rank in failures else pickle.loads(outcome.results[rank])
        for rank in range(job.spec.num_ranks)
    ]


def _raise(failure: Failure) -> None:
    error, cause = _errors_of(failure)
    if error is cause:
        raise error
    raise error from cause


def _errors_of(failure: Failure) -> tuple[BaseException, LaunchError]:
    """The rank's own exception where it travelled, and the LaunchError that tells where it came from."""
    detail = failure.text.rstrip() or f"it {describe_exit(failure.exit_code)}"
    cause = LaunchError(failure.rank, failure.exit_code, detail)
    if not failure.pickled_error:
        return cause, cause
    try:
        error = pickle.loads(failure.pickled_error)
    except Exception:  # noqa: BLE001 - a type that only the rank can import; the LaunchError has its text
        return cause, cause
    return error, cause


def start_parent(job: Job, stream: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process that will read the job from `stream` and fork its ranks; its output comes in pipes.

    Tests put another in its place, which has loaded what `job` needs already.
    """
    # A group of its own: a terminal's Ctrl-C arrives here, and is passed on once.
    return subprocess.Popen(
        [sys.executable, "-m", "umem.world.warm_parent", str(stream.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[stream.fileno()],
        process_group=0,
    )


class _Parent:
    """The warm parent of one launch, seen from the caller: a process, its output, its socket."""

    def __init__(self, job: Job) -> None:
        self._stream, theirs = socket.socketpair()
        with theirs:
            self._process = start_parent(job, theirs)
        self._frames = FrameBuffer()
        self._report: Report | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stream, selectors.EVENT_READ, self._on_frames)
        for pipe, name in ((self._process.stdout, "stdout"), (self._process.stderr, "stderr")):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._selector.register(pipe, selectors.EVENT_READ, partial(self._on_output, pipe, name, decoder))

    def run(self, job: Job, pickled_work: bytes) -> Report:
        """Send the job, show the ranks' output, return the report. Ctrl-C here is Ctrl-C in every rank."""
        try:
            with suppress(ConnectionError):  # it died at once: its report is missing, which says so below
                self._stream.sendall(encode(Kind.JOB, 0, pack_blobs(pickle.dumps(job), pickled_work)))
            try:
                return self._attend()
            except KeyboardInterrupt:
                with suppress(ConnectionError):
                    self._stream.sendall(encode(Kind.SIGNAL, 0, str(int(signal.SIGINT)).encode()))
                self._attend()
                raise
        finally:
            self._close()

    def _attend(self) -> Report:
        """Stay until the parent has reported and closed its streams, or has died."""
        while self._selector.get_map():
            for key, _ in self._selector.select(SIGNALS_S):
                key.data()
        exit_code = self._process.wait(_PARENT_END_TIMEOUT_S)
        if self._report is None:
            code = exit_code if exit_code >= 0 else 128 - exit_code
            raise WorldError(f"the ranks' parent {describe_exit(code)} and left no report; see its output")
        return self._report

    def _on_frames(self) -> None:
        try:
            data = self._stream.recv(_READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._stream)
        for frame in self._frames.feed(data):
            assert frame.kind is Kind.REPORT, frame.kind
            self._report = pickle.loads(frame.payload)

    def _on_output(self, pipe: IO[bytes], name: str, decoder: codecs.IncrementalDecoder) -> None:
        data = os.read(pipe.fileno(), _READ_BYTES)
        if not data:
            self._selector.unregister(pipe)
        # Looked up at each write: notebooks and test runners replace these objects.
        stream: TextIO = getattr(sys, name)
        stream.write(decoder.decode(data, final=not data))
        stream.flush()

    def _close(self) -> None:
        self._selector.close()
        self._stream.close()
        if self._process.poll() is None:
            self._process.kill()  # the kernel ends its ranks with it
            self._process.wait(_PARENT_END_TIMEOUT_S)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
